// GGUF → ids of texts and greedy answers, by llama.cpp; see llama_cpp_check.py, which calls this.
//
// Arguments: the folder of node_modules, a job, where the result goes; both in JSON.
// Job: {model, lora: path or null, texts: [string], prompts: [[id]], max_tokens, end}
// Result: {ids: [[id]], answers: [[id]]}

import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [modules, jobFile, resultFile] = process.argv.slice(2);
const found = path.join(modules, "node-llama-cpp", "dist", "index.js");
const {getLlama} = await import(pathToFileURL(found).href);
const job = JSON.parse(fs.readFileSync(jobFile, "utf8"));

const llama = await getLlama({gpu: false, build: "never", logLevel: "warn"});
const model = await llama.loadModel({modelPath: job.model});
const ids = job.texts.map((text) => [...model.tokenize(text, true)]);

const answers = [];
if (job.prompts.length > 0) {
    const longest = Math.max(...job.prompts.map((prompt) => prompt.length));
    const context = await model.createContext({
        contextSize: longest + job.max_tokens + 8,
        threads: llama.cpuMathCores, // more wait for each other: 30 times slower on two busy cores
        flashAttention: false,
        experimentalKvCacheKeyType: "F32",
        experimentalKvCacheValueType: "F32",
        ...(job.lora ? {lora: job.lora} : {})
    });
    const sequence = context.getSequence();
    for (const prompt of job.prompts) {
        await sequence.clearHistory();
        const answer = [];
        for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
            answer.push(token);
            if (token === job.end || answer.length >= job.max_tokens) break;
        }
        answers.push(answer);
    }
}
fs.writeFileSync(resultFile, JSON.stringify({ids, answers}));
await llama.dispose();
