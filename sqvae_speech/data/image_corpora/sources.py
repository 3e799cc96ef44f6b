"""Where the corpora of images are published: addresses, checksums, licences.

Checksums and sizes are those of TensorFlow Datasets (``url_checksums``).
"""

from sqvae_speech.data.corpus_sources import Source
from sqvae_speech.data.download import Archive

MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
# file -> bytes, SHA-256
MNIST_FILES = {
    "train-images": (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    "train-labels": (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    "t10k-images": (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    "t10k-labels": (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
}
FASHION_FILES = {
    "train-images": (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    "train-labels": (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    "t10k-images": (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    "t10k-labels": (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
}


def _idx_source(url: str, files: dict[str, tuple[int, str]], page: str, licence: str) -> Source:
    names = {part: f"{part}-idx{3 if part.endswith('images') else 1}-ubyte.gz" for part in files}
    return Source(
        page=page,
        licence=licence,
        archives={
            part: Archive(f"{url}/{names[part]}", sha256=sha256, size=size, is_file=True)
            for part, (size, sha256) in files.items()
        },
        there={part: (name, name.removesuffix(".gz")) for part, name in names.items()},
    )


SOURCES: dict[str, Source] = {
    "mnist": _idx_source(
        MNIST,
        MNIST_FILES,
        "https://yann.lecun.com/exdb/mnist",
        "CC BY-SA 3.0, https://creativecommons.org/licenses/by-sa/3.0/",
    ),
    "fashion_mnist": _idx_source(
        FASHION, FASHION_FILES, "https://github.com/zalandoresearch/fashion-mnist", "MIT, see the page"
    ),
    "cifar10": Source(
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="for research, see the page",
        # the binary version: the other one is pickled
        archives={
            "": Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                size=170052171,
            )
        },
        there={
            "": tuple(
                f"{folder}test_batch{suffix}"
                for suffix in (".bin", "")
                for folder in ("cifar-10-batches-bin/", "cifar-10-batches-py/", "")
            )
        },
    ),
    "celeba": Source(
        page="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        licence="for non-commercial research, by an agreement on the page",
        archives={},
        there={"": ("list_eval_partition.txt", "celeba/list_eval_partition.txt", "Eval/list_eval_partition.txt")},
        by_hand={
            "": "its agreement is to be accepted first. Open https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, "
            "accept it, and fetch img_align_celeba.zip (Align&Cropped Images) and list_eval_partition.txt"
        },
    ),
    "celebamask_hq": Source(
        page="https://github.com/switchablenorms/CelebAMask-HQ",
        licence="for non-commercial research, by the agreement on the page",
        archives={},
        there={"": ("CelebAMask-HQ/CelebAMask-HQ-mask-anno", "CelebAMask-HQ-mask-anno")},
        by_hand={
            "": "it is given away by an agreement. Open https://github.com/switchablenorms/CelebAMask-HQ, fetch "
            "CelebAMask-HQ.zip (3.2 GB), and unpack it"
        },
    ),
}
