"""torchvision and what stands on it can be imported wherever engram was."""

import subprocess
import sys
import textwrap

import pytest


def run(code):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_engram_imports_neither_torch_nor_torchvision():
    found = run(
        """
        import importlib.util, sys
        import engram
        importlib.util.find_spec("torchvision")
        print(*({"torch", "torchvision"} & set(sys.modules)))
        """
    )
    assert found == []


def test_libraries_on_torchvision_can_be_imported_and_used():
    found = run(
        """
        import engram, torchvision, timm, open_clip
        import torch
        from PIL import Image
        from torchvision.transforms import ToTensor
        print(*ToTensor()(Image.new("RGB", (5, 4), (255, 0, 0))).shape)
        print(*open_clip.image_transform(32, is_train=False)(Image.new("RGB", (50, 40))).shape)
        print(timm.create_model("test_vit", num_classes=0)(torch.zeros(1, 3, 160, 160)).shape[0])
        """
    )
    assert found == ["3", "4", "5", "3", "32", "32", "1"]


@pytest.fixture
def fake(tmp_path):
    """A torchvision and a torch that write down what is asked of them, in order."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("print('torchvision')\n")
    (tmp_path / "torchvision/_C.so").touch()
    (tmp_path / "torch.py").write_text(
        textwrap.dedent(
            """
            import types
            from settings import cuda, hip, loads

            def load_library(path):
                print("load")
                if not loads:
                    raise OSError("libtorch_cuda.so: cannot open shared object file")

            class Library:
                def __init__(self, namespace, kind):
                    print(namespace, kind)
                def define(self, schema):
                    print(schema.partition("(")[0])

            version = types.SimpleNamespace(cuda=cuda, hip=hip)
            ops = types.SimpleNamespace(load_library=load_library)
            library = types.SimpleNamespace(Library=Library)
            """
        )
    )

    def run_with(cuda=None, hip=None, loads=False):
        (tmp_path / "settings.py").write_text(f"cuda, hip, loads = {cuda!r}, {hip!r}, {loads!r}\n")
        return run(
            f"""
            import sys
            sys.path.insert(0, {str(tmp_path)!r})
            import engram
            engram.torchvision_compat.install()
            import torchvision
            """
        )

    return run_with


def test_operators_are_declared_before_torchvision_runs(fake):
    assert fake() == ["load", "torchvision", "DEF", "nms", "qnms", "torchvision"]


def test_nothing_is_declared_where_the_extension_loads(fake):
    assert fake(loads=True) == ["load", "torchvision"]


@pytest.mark.parametrize("gpu", [{"cuda": "13.0"}, {"hip": "7.0"}])
def test_nothing_happens_beside_torch_for_gpus(fake, gpu):
    assert fake(**gpu) == ["torchvision"]
