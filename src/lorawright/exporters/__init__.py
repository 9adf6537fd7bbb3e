"""A finished run → what other programs load: merged model, GGUF, Ollama, vLLM, hub, plain script.

Its modules load torch but for `ollama_template` and `go_template`, so import them by name:

    merge           run, Options            one model from base and adapter; writes `merge.json`
    merged_weights  plan, MergedWeights     its tensors, one at a time
    base_tensors    groups                  tensors of a base's files, parameters of its model
    proof           open_parts, predict     KL divergence between base + adapter and what was made
    gguf            run, Options            GGUF files; gguf_file and gguf_tokenizer write them
    ollama          run                     a GGUF and a Modelfile; ollama_template, go_template
    vllm            run                     whether vLLM takes the adapter, and its commands
    push            push                    the adapter and its card to the hub
    eject           eject                   a plain TRL script that does the same run
"""
