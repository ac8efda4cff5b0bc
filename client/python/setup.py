"""Makes the package tasuki.v1 from the protos, which lie in ../../proto, or in proto/ of a source distribution."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
PROTO = next(path for path in (HERE / "proto", HERE.parents[1] / "proto") if path.is_dir())


def generate(target: Path) -> None:
    """Writes messages and their types (`.pyi`) to `target`/tasuki/v1, which exports all of them."""
    import grpc_tools
    from google.rpc import status_pb2
    from grpc_tools import protoc

    package = target / "tasuki" / "v1"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    protos = sorted(path.relative_to(PROTO) for path in PROTO.glob("tasuki/v1/*.proto"))
    googleapis = Path(status_pb2.__file__).parents[2]
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    # The working directory may not be PROTO, so that it is named first.
    flags = [f"-I{path}" for path in (PROTO, googleapis, well_known)] + [f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main(["protoc", *flags, *(str(PROTO / path) for path in protos)]) != 0:
        raise SystemExit("protoc failed")
    exports = "".join(f"from tasuki.v1.{path.stem}_pb2 import *\n" for path in protos)
    (package / "__init__.py").write_text('"""The messages of the API, made from proto/tasuki/v1."""\n' + exports)


class BuildPy(build_py):
    def run(self) -> None:
        if not self.editable_mode:  # what an earlier build left would go into the wheel
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        generate(HERE if self.editable_mode else Path(self.build_lib))


class Sdist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for path in PROTO.glob("tasuki/v1/*.proto"):
            copy = Path(base_dir) / "proto" / path.relative_to(PROTO)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
