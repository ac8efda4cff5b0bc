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
from typing import Any

PICKLE = "pytorch_model.bin"
RESULT = "model.safetensors"
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.bin")


def pickled_files(directory: Path) -> tuple[list[Path], set[str]]:
    """`pytorch_model.bin`, or the shards of `pytorch_model.bin.index.json` and the names that it lists."""
    index = directory / f"{PICKLE}.index.json"
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(weight_map.values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{index} is not an index of shards") from None
        if not names or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
            raise ValueError(f"{index} names what is not a shard beside it")
        return [directory / name for name in names], set(weight_map)
    if (directory / PICKLE).is_file():
        return [directory / PICKLE], set()
    raise FileNotFoundError(f"{directory} has neither {PICKLE} nor {index.name}")


def tensors_of(path: Path) -> dict[str, Any]:
    import torch

    with open(path, "rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a pointer of Git LFS; `git lfs pull` fetches the file itself")
    try:
        part = torch.load(path, map_location="cpu", weights_only=True)
    except EOFError:
        raise ValueError(f"{path} ends too early") from None
    except pickle.UnpicklingError as error:
        # torch's own message advises to switch the check off.
        what = re.search(r"Unsupported \S+ \S+|GLOBAL \S+", str(error))
        raise ValueError(f"{path} is no pickle of tensors alone" + (f" (it has {what[0]})" if what else "")) from None
    if not isinstance(part, dict) or not all(isinstance(k, str) and isinstance(t, torch.Tensor) for k, t in part.items()):
        raise ValueError(f"{path} is not a dictionary of tensors")
    for name, tensor in part.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(f"{path}: {name} is {tensor.dtype}, {tensor.layout}; weights are plain floats")
    return part


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
    sharded = sorted(directory.glob("model-*-of-*.safetensors"))
    if sharded and not force:
        raise FileExistsError(f"{sharded[0]} exists: the weights are in safetensors already; --force writes {RESULT} beside")
    weights: dict[str, torch.Tensor] = {}
    paths, listed = pickled_files(directory)
    for path in paths:
        weights.update(tensors_of(path))
    if not weights:
        raise ValueError(f"{paths[0]} has no tensor")
    if missing := sorted(listed - weights.keys()):
        raise ValueError(f"{missing[0]} is in the index and in no shard")

    # In the order of names "shared.weight" comes after its copies, so it is looked at first.
    written, seen = {}, set()
    for name in sorted(weights, key=lambda name: (name != "shared.weight", name)):
        tensor = weights[name]
        same = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() > 0 and same in seen:
            continue
        seen.add(same)
        written[name] = tensor.clone(memory_format=torch.contiguous_format)

    aside = directory / f".{RESULT}.{os.getpid()}.partial"
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
