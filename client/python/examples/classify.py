"""Classifies texts by a model, each argument one text, and prints a table.

    python classify.py reviews 'もっと早く買っていればよかった。'

The server is at TASUKI_SERVER, else 127.0.0.1:8500; TASUKI_TLS_CA and TASUKI_TOKEN are heeded, too.
"""

import sys

import tasuki


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: classify.py MODEL TEXT...")
    model, *texts = sys.argv[1:]
    with tasuki.Client() as client:
        try:
            print(client.classify(texts, model=model))
        except tasuki.Error as error:
            sys.exit(f"classify: {error}")


if __name__ == "__main__":
    main()
