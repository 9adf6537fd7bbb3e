"""Base model and adapter as they are trained; its modules load torch, so import them by name.

load        load_base, load_tokenizer           a folder → the frozen base, the tokenizer
lora        add_adapter, lora_config, count     base → PEFT model, float32 LoRA matrices
tuned       find, end_tokens                    a run → its adapter on its base
attention   attend, attend_varlen, PassShape    over packs of chats and shared prefixes
loss        fused_linear_cross_entropy          at trained positions, chunk by chunk
causal_lm   install, measure_loss_kind          a forward that returns summed losses
fused_lora  install                             one product for adapters that read one input
dropout     install                             masks keyed by seed, step, chat and adapter
selfcheck   verify                              a pass against the same chats alone
divergence  predict, compare                    KL divergence between two models
"""
