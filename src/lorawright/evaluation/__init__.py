"""Run → losses, answers and scores of base and tuned model on chats that were not trained on.

Its modules load torch but for `chats`, `scores` and `harness`, so import them by name:

    run         run, Options            the `evaluate` verb; writes `evaluation.json`
    chats       load, questions         the evaluation set, and where its answers begin
    losses      measure                 loss and accuracy per token, by role and length
    scores      score, summary          answers against their references
    compare     Comparison              both models on the same questions
    harness     run                     lm-evaluation-harness
"""
