"""Run → losses, answers and scores of base and tuned model on chats that were not trained."""
