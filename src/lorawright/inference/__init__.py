"""Prompt ids → answers: streamed, in batches, and behind an OpenAI-compatible endpoint.

Its modules load torch or a web server, so import them by name:

    generate    ChatModel, Sampling             answers of base or adapter, token by token
    batches     answer                          many prompts, the most likely token each
    tool_calls  read_calls                      calls of tools in an answer's text
    server      bind, serve                     `chat --serve`
"""
