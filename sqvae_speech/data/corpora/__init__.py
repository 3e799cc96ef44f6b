"""Corpora: each ``prepare_<name>`` turns recordings on disk into Kaldi data directories, one a split."""

from sqvae_speech.data.corpora import folder, fsdd, kaldi, lhotse, librispeech, ljspeech, mini, vctk, zerospeech2019
from sqvae_speech.data.preparation import Corpus

CORPORA = {
    "folder": Corpus(folder.prepare_folder, folder.WHAT),
    "fsdd": Corpus(fsdd.prepare_fsdd, fsdd.WHAT),
    "kaldi": Corpus(kaldi.prepare_kaldi, kaldi.WHAT),
    "lhotse": Corpus(lhotse.prepare_lhotse, lhotse.WHAT),
    "librispeech": Corpus(librispeech.prepare_librispeech, librispeech.WHAT),
    "ljspeech": Corpus(ljspeech.prepare_ljspeech, ljspeech.WHAT),
    "mini": Corpus(mini.prepare_mini, mini.WHAT),
    "vctk": Corpus(vctk.prepare_vctk, vctk.WHAT),
    "zerospeech2019": Corpus(zerospeech2019.prepare_zerospeech2019, zerospeech2019.WHAT),
}
