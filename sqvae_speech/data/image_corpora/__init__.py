"""Corpora of images: each ``prepare_<name>`` turns files on disk into data directories of images, one a split."""

from sqvae_speech.data.image_corpora import celeba, celebamask_hq, cifar10, digits, images, mnist
from sqvae_speech.data.preparation import Corpus

CORPORA = {
    "images": Corpus(images.prepare_images, images.WHAT),
    "digits": Corpus(digits.prepare_digits, digits.WHAT, embedded=True),
    "mnist": Corpus(mnist.prepare_mnist, mnist.WHAT),
    "fashion_mnist": Corpus(mnist.prepare_fashion_mnist, mnist.WHAT),
    "cifar10": Corpus(cifar10.prepare_cifar10, cifar10.WHAT),
    "celeba": Corpus(celeba.prepare_celeba, celeba.WHAT),
    "celebamask_hq": Corpus(celebamask_hq.prepare_celebamask_hq, celebamask_hq.WHAT),
}
