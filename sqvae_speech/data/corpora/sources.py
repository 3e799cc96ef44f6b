"""Where the corpora of speech are published: addresses, checksums, licences.

Checksums and sizes are those that two public packages agree on, torchaudio (``torchaudio/datasets``) and TensorFlow
Datasets (``checksums.tsv``); LibriSpeech's are torchaudio's, its sizes those of Kaldi's recipe
(``local/download_and_untar.sh``). Where nothing is published, nothing is compared but the archive's own checksums,
when it is unpacked.
"""

from sqvae_speech.data.corpus_sources import Source
from sqvae_speech.data.download import Archive

CC_BY = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
OPENSLR = "https://www.openslr.org/resources/12"
# subset of LibriSpeech -> bytes, SHA-256
LIBRISPEECH = {
    "train-clean-100": (6387309499, "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
    "train-clean-360": (23049477885, "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
    "train-other-500": (30593501606, "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
    "dev-clean": (337926286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    "dev-other": (314305928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    "test-clean": (346663984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    "test-other": (328757843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
}

SOURCES: dict[str, Source] = {
    "vctk": Source(
        page="https://datashare.ed.ac.uk/handle/10283/3443",
        licence=CC_BY,
        archives={
            "": Archive(
                "https://datashare.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
                sha256="f96258be9fdc2cbff6559541aae7ea4f59df3fcaf5cf963aae5ca647357e359c",
                size=11747302977,
                into="VCTK-Corpus-0.92",  # its wav48_silence_trimmed/, txt/, ... are in no folder
            )
        },
        there={"": ("VCTK-Corpus-0.92/txt", "VCTK-Corpus/txt", "txt")},
    ),
    "librispeech": Source(
        page="https://www.openslr.org/12",
        licence=CC_BY,
        archives={
            subset: Archive(f"{OPENSLR}/{subset}.tar.gz", sha256=sha256, size=size)
            for subset, (size, sha256) in LIBRISPEECH.items()
        },
        there={subset: (f"LibriSpeech/{subset}",) for subset in LIBRISPEECH},
        top="LibriSpeech",
    ),
    "ljspeech": Source(
        page="https://keithito.com/LJ-Speech-Dataset/",
        licence="public domain",
        archives={
            "": Archive(
                "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
                sha256="be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
                size=2748572632,
            )
        },
        there={"": ("LJSpeech-1.1/wavs", "wavs")},
    ),
    "fsdd": Source(
        page="https://github.com/Jakobovski/free-spoken-digit-dataset",
        licence="CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/",
        # The tag with all six speakers. GitHub packs it when asked, and publishes neither size nor checksum.
        archives={"": Archive("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.10.zip")},
        there={"": ("free-spoken-digit-dataset-1.0.10/recordings", "fsdd/recordings", "recordings")},
    ),
    "zerospeech2019": Source(
        page="https://zerospeech.com/tasks/task_3/benchmarks_datasets/",
        licence="see the page",
        # 2.5 GB by the challenge's instructions, which give no checksum
        archives={"english": Archive("https://download.zerospeech.com/2019/english.tgz")},
        there={name: (f"{name}/train", f"2019/{name}/train") for name in ("english", "surprise")},
        by_hand={
            "surprise": "its archive has a password that is given to who accepts a licence: see "
            "https://download.zerospeech.com, and unzip surprise.zip there"
        },
    ),
}
