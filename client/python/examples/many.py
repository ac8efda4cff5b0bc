"""Classifies the lines of a file with asyncio and writes one JSON object a line, in their order; memory does not grow with
the file.

    python many.py reviews texts.txt answers.jsonl

The server is at TASUKI_SERVER, else 127.0.0.1:8500.
"""

import asyncio
import json
import sys

import tasuki


async def main() -> None:
    model, source, target = sys.argv[1:]
    async with tasuki.aio.Client() as client:
        with open(source, encoding="utf-8") as texts, open(target, "w", encoding="utf-8") as answers:
            lines = (line.rstrip("\n") for line in texts)
            async for answer in client.classify_each(lines, model=model, progress=True):
                labels = {task: prediction.label for task, prediction in answer.items()}
                answers.write(json.dumps({"text": answer.text, **labels}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
