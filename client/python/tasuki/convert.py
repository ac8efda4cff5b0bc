"""Turns the pickled weights of a Hugging Face directory into safetensors.

A pickle can run any code when it is opened, so Tasuki never opens one. Here torch opens it with
`weights_only=True`, which builds tensors and refuses everything else, on the machine of whoever
trusts the file enough to try. Needs `pip install './client/python[convert]'`.
"""

import argparse
import json
import os
import pickle
import re
import sys
from pathlib import Path

PICKLE = "pytorch_model.bin"
RESULT = "model.safetensors"


def pickled_files(directory: Path) -> list[Path]:
    """`pytorch_model.bin`, or the shards that `pytorch_model.bin.index.json` names."""
    index = directory / f"{PICKLE}.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index} names a file outside of its directory")
        return [directory / name for name in names]
    if (directory / PICKLE).is_file():
        return [directory / PICKLE]
    raise FileNotFoundError(f"{directory} has neither {PICKLE} nor {index.name}")


def convert(directory: str | Path, force: bool = False) -> Path:
    """Writes `model.safetensors` into `directory`, from the pickles there, and returns its path.

    Values and dtypes stay as they are. Tensors that share memory, as the head of a T5 with tied
    embeddings does with `shared.weight`, are written once if they are the same tensor, which is how
    transformers writes them, and else as copies. The pickles are left alone.

    Raises FileExistsError if there is a `model.safetensors` and `force` is false, ValueError for a
    file that is not a dictionary of tensors or would run code.
    """
    import torch
    from safetensors.torch import save_file

    directory = Path(directory)
    result = directory / RESULT
    if result.exists() and not force:
        raise FileExistsError(f"{result} exists; --force writes it anew")
    weights: dict[str, torch.Tensor] = {}
    for path in pickled_files(directory):
        try:
            part = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # torch's own message advises to switch the check off.
            what = re.search(r"Unsupported \S+ \S+|GLOBAL \S+", str(error))
            raise ValueError(f"{path} is no pickle of tensors alone" + (f" (it has {what[0]})" if what else "")) from None
        if not isinstance(part, dict) or not all(isinstance(t, torch.Tensor) for t in part.values()):
            raise ValueError(f"{path} is not a dictionary of tensors")
        weights.update(part)

    # In the order of names "shared.weight" comes after its copies, so it is looked at first.
    written, seen = {}, set()
    for name in sorted(weights, key=lambda name: (name != "shared.weight", name)):
        tensor = weights[name]
        same = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() > 0 and same in seen:
            continue
        seen.add(same)
        written[name] = tensor.clone(memory_format=torch.contiguous_format)

    aside = result.with_suffix(".tmp")
    try:
        save_file(written, aside, metadata={"format": "pt"})
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, result)
    finally:
        aside.unlink(missing_ok=True)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tasuki.convert",
        description=f"Turns {PICKLE} (or its shards) in DIRECTORY into {RESULT}, which `tasuki model import` takes.",
    )
    parser.add_argument("directory", metavar="DIRECTORY")
    parser.add_argument("--force", action="store_true", help=f"write {RESULT} anew if there is one")
    options = parser.parse_args(arguments)
    try:
        print(convert(options.directory, options.force))
    except ImportError as error:
        print(f"convert: {error}; the package's extra [convert] brings what it needs", file=sys.stderr)
        return 1
    except Exception as error:  # what torch finds wrong with a pickle comes in many types
        print(f"convert: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
