"""A job as people write it → v1.TrainingJob: a message, a mapping of its fields, or a YAML file of them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tasuki import names, v1

Job: TypeAlias = v1.TrainingJob | Mapping[str, Any] | str | os.PathLike[str]

_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}")
_NAMES = {
    "model": names.model,
    "base_model_version": names.model,
    "model_version": names.model,
    "datasets": names.dataset,
    "train_dataset": names.dataset,
    "valid_dataset": names.dataset,
    "test_dataset": names.dataset,
}


def read(job: Job, variables: Mapping[str, str] | None = None) -> v1.TrainingJob:
    """The job, with short names made full.

    A str or path is that of a YAML file as `tasuki job submit` takes it (needs the package's extra [yaml]): `${NAME}` in
    it is taken from `variables` or the environment, and `$${` stands for `${`. Raises ValueError for what is not a job.
    """
    if isinstance(job, v1.TrainingJob):
        message = v1.TrainingJob()
        message.CopyFrom(job)
    else:
        fields = job if isinstance(job, Mapping) else _load(Path(job), variables or {})
        try:
            message = json_format.ParseDict(_fitted(fields, v1.TrainingJob.DESCRIPTOR), v1.TrainingJob())
        except json_format.ParseError as error:
            raise ValueError(f"not a training job: {error}") from None
    _complete_names(message)
    return message


def _load(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The fields in a YAML file. Every scalar comes as a str, which is what its field makes of it."""
    try:
        import yaml
    except ImportError:
        raise ImportError("a job file needs PyYAML; the package's extra [yaml] brings it") from None

    def substituted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: substituted(each) for key, each in value.items()}
        if isinstance(value, list):
            return [substituted(each) for each in value]
        return _VARIABLE.sub(replaced, value)

    def replaced(match: re.Match[str]) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        value = variables.get(name, os.environ.get(name))
        if value is None:
            raise ValueError(f"{path}: the variable {name} is not defined; give it in variables or set it in the environment")
        return value

    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold one job, a map of the fields of TrainingJob")
    return {key: substituted(value) for key, value in fields.items()}


def _fitted(value: Any, kind: Any) -> Any:
    """Values as protobuf's parser of JSON wants them: enums in capitals, truth values and texts of their type. `kind` is
    the descriptor of a message."""
    if value == "":  # YAML's null: the field is not set
        return None
    if not isinstance(value, Mapping):
        return value
    fitted = {}
    for key, each in value.items():
        field = kind.fields_by_name.get(key)
        many = isinstance(each, (list, tuple))
        one_by_one = [_fitted_field(one, field) for one in (each if many else [each])]
        fitted[key] = one_by_one if many else one_by_one[0]
    return fitted


def _fitted_field(value: Any, field: Any) -> Any:
    if field is None:  # the parser says that there is none
        return value
    if field.message_type is not None:
        return _fitted(value, field.message_type)
    if field.enum_type is not None and isinstance(value, str):
        return value.upper()
    if field.type == FieldDescriptor.TYPE_BOOL and value in ("true", "false"):
        return value == "true"
    if field.type == FieldDescriptor.TYPE_STRING and type(value) is int:
        return str(value)
    return value


def _complete_names(message: Message) -> None:
    for field, value in message.ListFields():
        rule = _NAMES.get(field.name)
        if isinstance(value, Message):
            _complete_names(value)
        elif rule and isinstance(value, str):
            setattr(message, field.name, rule(value))
        elif rule:
            value[:] = [rule(each) for each in value]
        elif field.message_type is not None:
            for each in value:
                _complete_names(each)
