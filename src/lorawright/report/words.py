"""Every word of the page, in English and Chinese, in one table."""

from __future__ import annotations

from lorawright.i18n import units
from lorawright.i18n.catalogue import LANGUAGES, Language
from lorawright.i18n.catalogue import language as own_language

__all__ = ["LANGUAGES", "Language", "own_language", "words"]


def words(language: Language) -> dict[str, str]:
    """Key → text, with `{name}` where values stand."""
    at = 0 if language is Language.ENGLISH else 1
    return {key: pair[at] for key, pair in WORDS.items()}


WORDS: dict[str, tuple[str, str]] = {
    # headline
    "learned": (
        "It learned: loss on the evaluation set fell from {before} (step {step}) to {after}. The "
        "base was not measured.",
        "有效：评估集损失从 {before}（第 {step} 步）降到 {after}。没有测量基座。",
    ),
    "learned_base": (
        "It learned: on chats it was not trained on, loss fell from {before} (base) to {after}.",
        "有效：在没有训练过的对话上，损失从 {before}（基座）降到 {after}。",
    ),
    "worse": (
        "It got worse: loss on the evaluation set rose from {before} (step {step}) to {after}.",
        "变差了：评估集损失从 {before}（第 {step} 步）升到 {after}。",
    ),
    "worse_base": (
        "It got worse: on the evaluation set loss rose from {before} (base) to {after}.",
        "变差了：评估集损失从 {before}（基座）升到 {after}。",
    ),
    "unclear": (
        "No clear change: loss on the evaluation set {before} (step {step}) → {after}; a "
        "difference below {margin} says nothing.",
        "没有明显变化：评估集损失 {before}（第 {step} 步）→ {after}；"
        "小于 {margin} 的差别说明不了什么。",
    ),
    "unclear_base": (
        "No clear change: loss on the evaluation set {before} (base) → {after}; a difference below "
        "{margin} says nothing.",
        "没有明显变化：评估集损失 {before}（基座）→ {after}；小于 {margin} 的差别说明不了什么。",
    ),
    "train_only": (
        "Training loss {before} → {after}. There was no evaluation set, so nobody knows whether it "
        "learned or only memorized.",
        "训练损失 {before} → {after}。没有评估集，因此无法判断是学会了还是只背下来了。",
    ),
    "one_eval": (
        "Training loss {before} → {after}; evaluated once, at the end.",
        "训练损失 {before} → {after}；只在最后评估了一次。",
    ),
    "train_worse": (
        "Training loss did not fall clearly: {before} → {after}. Try another "
        "`training.learning_rate`.",
        "训练损失没有明显下降：{before} → {after}。请换一个 `training.learning_rate`。",
    ),
    "finished": ("The run is finished.", "运行已完成。"),
    "stopped": (
        "Stopped at step {step} of {num_steps}. `{command}` goes on with it, as if it had not been "
        "stopped.",
        "停在第 {step} 步，共 {num_steps} 步。`{command}` 可以接着训练，结果与没有中断时相同。",
    ),
    "unfinished": (
        "Not finished: step {step} of {num_steps}, and no complete checkpoint yet. `{command}` "
        "begins it anew.",
        "未完成：第 {step} 步，共 {num_steps} 步，还没有完整的检查点。`{command}` 会重新开始。",
    ),
    # remarks
    "overfit": (
        "Evaluation loss was lowest at step {step} ({low}) and has risen since ({last}): fewer "
        "epochs may be better.",
        "评估损失在第 {step} 步最低（{low}），之后上升（{last}）：减少轮数可能更好。",
    ),
    "stops": (
        "{share} of the answers end by themselves.",
        "{share} 的回答能正常结束。",
    ),
    "left_out": (
        "{num} rows of the data were left out; they are listed below.",
        "{num} 行数据被剔除，下面列出。",
    ),
    "tags_problem": (
        "The template with generation tags was not used: {problem}",
        "带 generation 标签的模板没有使用：{problem}",
    ),
    # header
    "title": ("Run {name}", "运行 {name}"),
    "comparison": ("{num} runs compared", "{num} 个运行的对比"),
    "state_finished": ("finished", "已完成"),
    "state_stopped": ("can be resumed", "可继续"),
    "state_unfinished": ("unfinished", "未完成"),
    "theme": ("Light or dark", "浅色或深色"),
    "made_by": ("lorawright {version}", "lorawright {version}"),
    # cards
    "card_train": ("Training loss", "训练损失"),
    "card_train_note": (
        "first step → mean of the last {num} logged",
        "第一步 → 最后 {num} 次记录的平均",
    ),
    "card_train_one": ("first → last step", "第一步 → 最后一步"),
    "card_eval": ("Evaluation loss", "评估损失"),
    "card_eval_base": ("base → tuned, {num} chats", "基座 → 微调后，{num} 段对话"),
    "card_eval_start": (
        "base → last evaluation; best at step {step}",
        "基座 → 末次评估；第 {step} 步最低",
    ),
    "card_eval_run": (
        "step {first} → last evaluation; best at step {step}",
        "第 {first} 步 → 末次评估；第 {step} 步最低",
    ),
    "card_eval_one": ("evaluated once", "评估一次"),
    "card_stop": ("Answers that end", "能正常结束的回答"),
    "card_stop_note": ("base {share}", "基座 {share}"),
    "card_proof": ("Masks proven", "掩码已验证"),
    "card_proof_note": ("rows; {num} derivations agree on each", "行；{num} 种推导逐行一致"),
    "card_time": ("Time", "用时"),
    "card_time_note": (
        "{steps} steps, evaluations included; {tokens} tokens",
        "{steps} 步（含评估），{tokens} 个 token",
    ),
    # sections
    "curves": ("Curves", "曲线"),
    "curves_hint": (
        "Drag to zoom, double-click to go back. A click on a name hides its curve.",
        "拖动放大，双击还原。点击名称可隐藏曲线。",
    ),
    "no_curves": ("No step has been logged yet.", "还没有记录任何一步。"),
    "no_script": ("The curves need JavaScript.", "曲线需要 JavaScript。"),
    "log_scale": ("log scale", "对数坐标"),
    "loss": ("Loss", "损失"),
    "accuracy": ("Token accuracy", "token 准确率"),
    "learning_rate": ("Learning rate", "学习率"),
    "warm_up_note": (
        "step 1 has rate 0: the warm-up begins there",
        "第 1 步学习率为 0：预热从这里开始",
    ),
    "grad_norm": ("Gradient norm", "梯度范数"),
    "tokens_per_second": ("Tokens per second", "每秒 token 数"),
    "step": ("step", "步"),
    "train": ("training", "训练"),
    "smoothed": ("training, smoothed", "训练（平滑）"),
    "eval": ("evaluation", "评估"),
    "evaluation": ("Base and tuned", "基座与微调后"),
    "evaluation_note": (
        "{num} chats of {name}, {tokens} trained tokens; means over tokens.",
        "{name} 的 {num} 段对话，{tokens} 个训练 token；按 token 平均。",
    ),
    "no_evaluation": (
        "Not measured yet: `lorawright evaluate {run}` compares base and tuned model.",
        "还没有测量：`lorawright evaluate {run}` 对比基座和微调后的模型。",
    ),
    "base": ("base", "基座"),
    "tuned": ("tuned", "微调后"),
    "perplexity": ("Perplexity", "困惑度"),
    "exact_match": ("Exact match", "完全一致"),
    "chrf": ("chrF", "chrF"),
    "rouge_l": ("ROUGE-L", "ROUGE-L"),
    "stop_share": ("Ends by itself", "正常结束"),
    "tool_parses": ("Tool calls that parse", "可解析的工具调用"),
    "tool_name": ("… with the right name", "……名称正确"),
    "tool_arguments": ("… with the right arguments", "……参数正确"),
    "by_role": ("Loss by role", "按角色的损失"),
    "by_length": ("Loss by length of the chat, in tokens", "按对话长度（token）的损失"),
    "tokens": ("tokens", "token"),
    "chats": ("chats", "段对话"),
    "answers": ("Answers side by side", "回答对照"),
    "answers_note": (
        "{num} answers, most likely token each time; those that changed come first.",
        "{num} 个回答，每次取概率最大的 token；有变化的排在前面。",
    ),
    "answers_count": (
        "{better} better, {worse} worse, {equal} as good as the base's: by exact match, then by "
        "more than one point of chrF.",
        "与基座相比：{better} 个更好，{worse} 个更差，{equal} 个相当（先看是否完全一致，"
        "再看 chrF 相差是否超过 1）。",
    ),
    "answer_better": ("better", "更好"),
    "answer_worse": ("worse", "更差"),
    "own_eval": ("the evaluation set", "评估集"),
    "reference": ("reference", "参考答案"),
    "all_answers": ("{num} more", "另外 {num} 个"),
    "did_not_stop": ("did not end", "没有结束"),
    "exact": ("exact", "一致"),
    "data": ("Data", "数据"),
    "set_train": ("Training set", "训练集"),
    "set_eval": ("Evaluation set", "评估集"),
    "trained_share": ("trained", "参与训练"),
    "longest": ("longest", "最长"),
    "median": ("median", "中位数"),
    "lengths": ("Chats by length in tokens", "按长度（token）统计的对话数"),
    "files": ("Files", "文件"),
    "rows": ("rows", "行"),
    "rejected": ("Rows left out", "剔除的行"),
    "rejected_first": ("the first {num} of {all}", "共 {all} 行，显示前 {num} 行"),
    "none_rejected": ("No row was left out.", "没有剔除任何行。"),
    "address": ("where", "位置"),
    "why": ("why", "原因"),
    "warnings": ("Remarks by kind, kept rows included", "各类提示（含保留的行）"),
    "sample_rows": ("What is trained", "训练了什么"),
    "sample_note": (
        "Green tokens are trained, grey ones are only read. Hover over a token for its id.",
        "绿色 token 参与训练，灰色只作上下文。悬停可看 id。",
    ),
    "row_head": ("{num} tokens, {trained} trained", "{num} 个 token，训练 {trained} 个"),
    "certificate": ("Certificate", "证书"),
    "certificate_note": (
        "{rows} rows, {spans} trained spans, {tokens} trained tokens. Derivations by text and by "
        "ids agree on {agreed} rows.",
        "{rows} 行，{spans} 个训练区间，{tokens} 个训练 token。"
        "按文本与按 id 的推导在 {agreed} 行上一致。",
    ),
    "certificate_tags": (
        "The template with generation tags agrees on {num} rows.",
        "带 generation 标签的模板在 {num} 行上一致。",
    ),
    "ends_with": ("Spans end with", "区间结尾"),
    "starts_with": ("Spans start with", "区间开头"),
    "hash_data": ("ids and masks", "id 与掩码"),
    "hash_template": ("chat template", "对话模板"),
    "hash_tokenizer": ("tokenizer", "分词器"),
    "hash_base": ("base weights", "基座权重"),
    "handover": ("Handing on", "合并与导出"),
    "handover_note": (
        "What was made of the adapter, and how far it is from base + adapter.",
        "由适配器得到的文件，以及与“基座+适配器”的差别。",
    ),
    "no_handover": (
        "Nothing yet: `lorawright merge {run}` or `lorawright export {run} --to gguf`.",
        "尚未导出，可运行 `lorawright merge {run}` 或 `lorawright export {run} --to gguf`。",
    ),
    "what": ("what", "内容"),
    "path": ("path", "路径"),
    "size": ("size", "大小"),
    "mean_kl": ("mean KL", "平均 KL"),
    "max_kl": ("largest KL", "最大 KL"),
    "top1": ("same first choice", "首选一致"),
    "merged": ("merged model", "合并后的模型"),
    "renders_equal": ("{num} of {all} chats render equally", "{all} 段对话中 {num} 段渲染一致"),
    "use": ("How to use it", "如何使用"),
    "use_chat": ("Talk to it", "对话"),
    "use_python": ("In Python", "在 Python 中"),
    "use_serve": ("As an OpenAI-compatible server", "作为 OpenAI 兼容服务"),
    "use_merge": ("One folder without PEFT", "不依赖 PEFT 的单个文件夹"),
    "use_evaluate": ("Compare base and tuned", "对比基座与微调后"),
    "use_resume": ("Go on with the run", "继续运行"),
    "asked": ("What was asked", "设置"),
    "asked_note": ("As resolved; derived values say why.", "解析后的设置；推导出的值附有原因。"),
    "derived": ("derived", "推导"),
    "machine": ("Machine and versions", "机器与版本"),
    "hardware": ("Hardware", "硬件"),
    "threads": ("threads", "线程"),
    "memory": ("Memory", "内存"),
    "memory_estimate": ("estimate", "估计"),
    "memory_peak": ("measured peak", "实测峰值"),
    "mem_weights": ("weights", "权重"),
    "mem_adapter": ("adapter and optimizer", "适配器与优化器"),
    "mem_activations": ("activations", "激活"),
    "mem_logits": ("logits", "logits"),
    "mem_runtime": ("libraries", "程序库"),
    "parameters": ("Trained parameters", "训练参数"),
    "parameters_note": ("of {num} ({share})", "共 {num}（{share}）"),
    "started": ("Started", "开始"),
    "lowest": (
        "Lowest loss on the evaluation set: {name} ({low}); next {other} ({next}).",
        "评估集损失最低：{name}（{low}）；其次 {other}（{next}）。",
    ),
    "no_winner": (
        "No clear difference: lowest loss on the evaluation set {low} ({name}), next {next} "
        "({other}); less than {margin} says nothing.",
        "没有明显差别：评估集损失最低 {low}（{name}），其次 {next}（{other}）；"
        "小于 {margin} 的差别说明不了什么。",
    ),
    "not_comparable": (
        "The runs were not evaluated on the same chats: their losses cannot be compared.",
        "各次运行的评估集不同：损失不能直接比较。",
    ),
    "differing": ("Settings that differ", "不同的设置"),
    "no_differing": ("No setting differs.", "设置完全相同。"),
    "setting": ("setting", "设置"),
    "result": ("Result", "结果"),
    "run": ("run", "运行"),
    "seconds": (units.SECONDS, "{seconds} 秒"),
    "minutes": (units.MINUTES, "{minutes} 分钟"),
    "hours": (units.HOURS, "{hours} 小时 {minutes} 分钟"),
    # kinds of problems
    "kind_config": ("config", "配置"),
    "kind_file": ("unreadable file", "文件无法读取"),
    "kind_syntax": ("not JSON", "不是 JSON"),
    "kind_shape": ("wrong shape", "结构有误"),
    "kind_order": ("order of roles", "角色顺序"),
    "kind_empty_answer": ("empty answer", "空回答"),
    "kind_untrained": ("nothing trained", "没有可训练的内容"),
    "kind_duplicate": ("duplicate", "重复"),
    "kind_leaked": ("also in the evaluation set", "也在评估集中"),
    "kind_overlong": ("too long", "过长"),
    "kind_forged_special_token": ("special token in text", "文本含特殊 token"),
    "kind_template": ("template fails", "模板无法渲染"),
    "kind_unknown_key": ("unknown key", "未知的键"),
    "kind_swallowed": ("not rendered", "未被渲染"),
    "kind_placeholder": ("placeholder", "未填的占位符"),
    "kind_mask": ("mask not proven", "掩码未通过验证"),
}
