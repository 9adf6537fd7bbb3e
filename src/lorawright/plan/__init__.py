"""Config, chats and hardware → everything that is decided before a model is loaded; no torch.

run_plan.make(config, tell)   chats, settings and steps of a run
workload.totals(steps)        its passes and tokens
settings.settle(config, ...)  every `auto` settled, each with its reason
adapted.targets(base, ...)    what PEFT adapts of a model without weights, what it leaves
"""
