"""Classifies the lines of a file with asyncio and writes one JSON object a line, in their order, with the version that
answered; memory does not grow with the file.

    python many.py reviews texts.txt answers.jsonl

The server is at TASUKI_SERVER, else 127.0.0.1:8500; TASUKI_TLS_CA and TASUKI_TOKEN are heeded, too.
"""

import asyncio
import json
import sys

import tasuki


async def main() -> None:
    if len(sys.argv) != 4:
        sys.exit("usage: many.py MODEL TEXTS ANSWERS")
    model, source, target = sys.argv[1:]
    async with tasuki.aio.Client() as client:
        with open(source, encoding="utf-8") as texts, open(target, "w", encoding="utf-8") as answers:
            lines = (line.rstrip("\n") for line in texts)
            async for answer in client.stream_classify(lines, model=model, progress=True):
                labels = {task: prediction.label for task, prediction in answer.items()}
                row = {"text": answer.text, "model_version": answer.model_version, **labels}
                answers.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
