"""Debian's own kernels, unpacked but not installed, and the initial file systems that boot them.

Enters: the name of a kernel package that always points at the newest of its series. Leaves: its image, and a cpio
archive with busybox, the modules a guest needs, and an init script; and modules of our own. All of it is kept under
build/kernels.
"""

import lzma
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build/kernels"
# Loaded at boot, each after what it depends on; and those that a test loads when it wants them.
AT_BOOT = ("virtio_pci", "virtio_net", "9p", "9pnet_virtio", "overlay")
ON_DEMAND = (
    *("ie31200_edac", "mce-inject", "ramoops", "loop", "crc32c_generic", "btrfs", "raid1", "nvme"),
    *("cxl_acpi", "cxl_pci", "cxl_mem"),
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package; `modules` are the files to load for each module, dependencies first."""

    release: str
    image: Path
    modules: dict[str, tuple[Path, ...]]


def unpacked(package: str) -> Kernel:
    """The kernel that Debian's package `package`, a name without a version, stands for today.

    Raises:
        subprocess.CalledProcessError: it can't be downloaded.
    """
    depends = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=True).stdout
    (image_package,) = re.findall(r"Depends: (linux-image-\S+)", depends)
    root = _unpacked(image_package, image_package)
    release = image_package.removeprefix("linux-image-")
    modules = root / "lib/modules" / release
    if not (modules / "modules.dep").exists():
        subprocess.run(["depmod", "-b", root, release], check=True)
    return Kernel(release, root / "boot" / f"vmlinuz-{release}", _closures(modules, (*AT_BOOT, *ON_DEMAND)))


def headers(kernel: Kernel) -> Path:
    """The directory to build modules for `kernel` in, from the packages that Debian has for that.

    Raises:
        subprocess.CalledProcessError: they can't be downloaded.
    """
    package = f"linux-headers-{kernel.release}"
    depends = subprocess.run(["apt-cache", "depends", package], capture_output=True, text=True, check=True).stdout
    parts = re.findall(r"Depends: (linux-headers-\S+-common|linux-kbuild-\S+)", depends)
    sources = _unpacked(package, package, *parts) / "usr/src"
    (common,) = sources.glob("linux-headers-*-common")
    # what the package has there names the place where it would have been installed
    (sources / package / "Makefile").write_text(f"include {common}/Makefile\n")
    return sources / package


def built_module(kernel: Kernel, source: Path) -> Path:
    """The module of one C file, built for `kernel`.

    Raises:
        subprocess.CalledProcessError: it can't be built.
    """
    directory = CACHE / f"modules-{kernel.release}"
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, directory)
    (directory / "Kbuild").write_text(f"obj-m := {source.stem}.o\n")
    # no debugging information of types: pahole, which makes it, isn't part of any of the packages
    options = [f"M={directory}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    subprocess.run(["make", "-s", "-C", headers(kernel), *options], check=True, stdout=subprocess.DEVNULL)
    return directory / f"{source.stem}.ko"


def _unpacked(name: str, *packages: str) -> Path:
    """A directory of that name with all that the packages hold."""
    root = CACHE / name
    if not (root / "unpacked").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-q", *packages], cwd=root, check=True, capture_output=True)
        for archive in sorted(root.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
            archive.unlink()
        (root / "unpacked").touch()
    return root


def _closures(modules: Path, names: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    """For each module, the files to load in order: none if it is built in. modules.dep lists the nearest first."""
    files: dict[str, tuple[Path, ...]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        target, _, needs = line.partition(":")
        name = Path(target).name.split(".")[0]
        if name in names:
            files[name] = tuple(modules / path for path in [*reversed(needs.split()), target])
    built_in = {Path(line).name.split(".")[0] for line in (modules / "modules.builtin").read_text().splitlines()}
    files |= {name: () for name in names if name in built_in}
    missing = set(names) - set(files)
    assert not missing, f"{modules} has no module {missing}"
    return files


def build_initrd(kernel: Kernel, init: str, path: Path) -> None:
    """Writes the initial file system: busybox, /init, and /modules with every file of `kernel.modules`."""
    tree = path.with_suffix(".tree")
    for name in ("bin", "dev", "proc", "sys", "host", "upper", "root", "modules"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/usr/bin/busybox" if Path("/usr/bin/busybox").exists() else "/bin/busybox", tree / "bin/busybox")
    for module in {module for files in kernel.modules.values() for module in files}:
        content = module.read_bytes()
        (tree / "modules" / plain_name(module)).write_bytes(
            lzma.decompress(content) if module.suffix == ".xz" else content
        )
    (tree / "init").write_text(init)
    (tree / "init").chmod(0o755)
    names = "\0".join(str(entry.relative_to(tree)) for entry in sorted(tree.rglob("*")))
    with path.open("wb") as out:  # not compressed: unpacking would take the guest longer than reading
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "-0", "--quiet", "-R", "0:0"],
            input=names.encode(),
            stdout=out,
            cwd=tree,
            check=True,
        )
    shutil.rmtree(tree)


def plain_name(module: Path) -> str:
    """`ie31200_edac.ko` for `ie31200_edac.ko.xz`."""
    return module.name.removesuffix(".xz")


def load_commands(kernel: Kernel, names: tuple[str, ...]) -> str:
    """Shell commands that load the modules, each file once."""
    files = dict.fromkeys(file for name in names for file in kernel.modules[name])
    return "\n".join(f"insmod /modules/{plain_name(file)}" for file in files)
