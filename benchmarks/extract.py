"""How fast images become features: Engram against the bare forward pass and against other ways.

    python benchmarks/extract.py [--images 256] [--threads 1] [--model vit_base_patch32_224]
    python benchmarks/extract.py --device cuda --precision bf16 --images 8192 --batch 256
    python benchmarks/extract.py --thingsvision ENV/bin/python

The images are simulated spectrograms, the weights random. Engines, all on the same images:

- forward: the model alone, on a batch that lies ready;
- engram: from the view store to the feature store (read, preprocess, forward, write);
- engram reference: the same with Pillow in place of batches on the device;
- dataloader: PNG files, Pillow, torchvision's transforms, a DataLoader, one .npy at the end;
- thingsvision: PNG files, its own loader and extractor, in an environment of its own;
- every epoch, 5 epochs: each image through Pillow and the model again in every epoch, with
  autograd on, as the published vigilance project does it;
- cached, 5 epochs: encoded once, then read from the store in every epoch.

Prints one JSON object a line: case, engine, seconds, cpu_seconds, rate (images a second; on the
CPU a CPU second), peak_mib. The last two engines count an image once an epoch. Each engine runs
in a process of its own; imports and the building of the model are not counted.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from engram import store
from engram.backbones import encode, load
from engram.signals.image import render
from engram.store import Rows

EPOCHS = 5
LIMITS = (-20.0, 20.0)
SHAPE = (129, 250)

THINGSVISION = """
import json, resource, sys, time
import torch
from thingsvision import get_extractor
from thingsvision.utils.data import DataLoader, ImageDataset
from thingsvision.utils.storing import save_features

model, images, out, batch, threads, device = sys.argv[1:7]
torch.set_num_threads(int(threads))
extractor = get_extractor(model_name=model, source="timm", device=device, pretrained=False)

def run(folder):
    data = ImageDataset(root=folder, out_path=out, backend=extractor.get_backend(),
                        transforms=extractor.get_transformations())
    batches = DataLoader(dataset=data, batch_size=int(batch), backend=extractor.get_backend())
    found = extractor.extract_features(batches=batches, module_name="head", flatten_acts=True)
    save_features(found, out_path=out, file_format="npy")
    return len(found)

wall, cpu = time.perf_counter(), time.process_time()
n = run(images)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps([n, wall, cpu, peak]))
"""


def view(folder, n):
    """A view store of n spectrograms of noise, and the same as PNG files."""
    rng = np.random.default_rng(0)
    names = [f"sub-01/scan-01/window-{i:06d}" for i in range(n)]
    table = pd.DataFrame({"subject": "sub-01", "exclude": ""}, index=names)
    rows = np.concatenate([rng.normal(0, 8, (1, *SHAPE)).astype(np.float16) for _ in range(n)])
    header = {"what": "spectrogram", "axes": 2, "limits": list(LIMITS), "cmap": "viridis"}
    header["simulated"] = True
    store.write(folder / "view.h5", Rows(rows, table, header))
    (folder / "png").mkdir()
    for i, row in enumerate(rows):
        Image.fromarray(render(row, LIMITS)).save(folder / f"png/{i:06d}.png")


@contextmanager
def timed(engine, n, given):
    """Print what the block took for n images."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    if given.device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    report(engine, n, wall, cpu, peak, given)


def report(engine, n, wall, cpu, peak, given):
    line = {
        "case": f"{given.model}, {given.images} images, {given.precision}, {given.device}",
        "engine": engine,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "rate": round(n / (cpu if given.device == "cpu" else wall), 2),
        "peak_mib": peak,
    }
    print(json.dumps(line), flush=True)


def backbone(folder, given, mode="device"):
    spec = {
        "backbone": {
            "kind": "timm",
            "model": given.model,
            "batch": given.batch,
            "precision": given.precision,
            "mode": mode,
            **({"size": [224, 224]} if "dinov2" in given.model else {}),
        }
    }
    source = store.open(folder / "view.h5")
    return source, load(source, spec, None, given.device), spec


def forward(folder, given):
    source, this, _ = backbone(folder, given)
    batch = this.preprocessing(source[: given.batch]).to(this.number)
    with torch.inference_mode():
        this.model(batch)
        with timed("forward", given.images, given):
            for _ in range(0, given.images, given.batch):
                this.model(batch)


def engram(folder, given, mode="device", engine="engram"):
    source, this, spec = backbone(folder, given, mode)
    this(source[: given.batch])
    with timed(engine, given.images, given):
        encode(source, this, folder / f"{mode}.h5", spec, {})


def engram_reference(folder, given):
    engram(folder, given, "reference", "engram reference")


class Pictures(torch.utils.data.Dataset):
    """PNG files through the transforms of torchvision."""

    def __init__(self, folder, preprocessing):
        from torchvision import transforms

        self.files = sorted((folder / "png").iterdir())
        self.transform = transforms.Compose(
            [
                transforms.Resize(preprocessing.size, transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.transform(Image.open(self.files[i]).convert("RGB"))


def dataloader(folder, given):
    _, this, _ = backbone(folder, given)
    pictures = Pictures(folder, this.preprocessing)
    loader = torch.utils.data.DataLoader(pictures, given.batch, num_workers=given.workers)
    this.model(pictures[0][None].to(given.device, this.number))
    with timed("dataloader", given.images, given), torch.inference_mode():
        found = [this.model(x.to(given.device, this.number)).float().cpu() for x in loader]
        np.save(folder / "features.npy", torch.cat(found).numpy())


def every_epoch(folder, given):
    """On an eighth of the images: the rate is the same, the wait is not."""
    source, this, _ = backbone(folder, given)
    transform, n = Pictures(folder, this.preprocessing).transform, max(given.images // 8, 1)
    rows = source[:n]
    with timed(f"every epoch, {EPOCHS} epochs", n * EPOCHS, given):
        for _ in range(EPOCHS):
            for at in range(0, n, 45):
                images = [transform(Image.fromarray(render(r, LIMITS))) for r in rows[at : at + 45]]
                with torch.enable_grad():
                    this.model(torch.stack(images).to(given.device, this.number))


def cached(folder, given):
    source, this, spec = backbone(folder, given)
    with timed(f"cached, {EPOCHS} epochs", given.images * EPOCHS, given):
        encode(source, this, folder / "cached.h5", spec, {})
        for _ in range(EPOCHS):
            store.open(folder / "cached.h5").load()


def thingsvision(folder, given):
    command = [given.thingsvision, "-c", THINGSVISION, given.model, folder / "png", folder / "tv"]
    command += [str(given.batch), str(given.threads), given.device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    n, wall, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    report("thingsvision", n, wall, cpu, peak, given)


ENGINES = {
    "forward": forward,
    "engram": engram,
    "engram-reference": engram_reference,
    "dataloader": dataloader,
    "every-epoch": every_epoch,
    "cached": cached,
    "thingsvision": thingsvision,
}


def measure(engine, folder, given):
    torch.set_num_threads(given.threads)
    ENGINES[engine](folder, given)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--model", action="append", help="name in timm; may be repeated")
    parser.add_argument("--engine", action="append", choices=ENGINES)
    parser.add_argument("--thingsvision", help="Python of an environment that has it")
    given = parser.parse_args()
    engines = given.engine or [e for e in ENGINES if e != "thingsvision" or given.thingsvision]
    context = multiprocessing.get_context("spawn")
    for model in given.model or ["vit_base_patch32_224"]:
        given.model = model
        with tempfile.TemporaryDirectory() as folder:
            view(Path(folder), given.images)
            for engine in engines:
                arguments = (engine, Path(folder), given)
                process = context.Process(target=measure, args=arguments)
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"{engine}: failed")


if __name__ == "__main__":
    main()
