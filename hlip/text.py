"""The text tower: a BERT through open_clip's Hugging Face adapter, its tokenizer, and a small one grown from a cohort's own
reports.

Texts are padded to the longest of their batch, not to the context length. A tower is always built from a folder (or hub id)
that holds `config.json` and the tokenizer's files, so that a checkpoint which carries that folder rebuilds itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass
class TextConfig:
    """What a text tower is made of."""

    source: str | None = None
    """Hub id or folder of a BERT and its tokenizer, e.g. microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext.
    None: a small BERT with a WordPiece vocabulary is grown from the training reports."""
    pretrained: bool = True
    """Start from the source's weights; False takes its architecture alone."""
    context_length: int = 256
    """Tokens after which a text is cut."""
    pooler: str = "cls_last_hidden_state_pooler"
    """open_clip's name of the pooling; cls_last_hidden_state_pooler and mean_pooler work with BERT."""
    locked: bool = False
    """Keep the source's weights; only the projection learns."""
    vocabulary: int = 3000
    """Grown tower: WordPiece entries at most."""
    width: int = 128
    """Grown tower: channels."""
    depth: int = 2
    """Grown tower: layers."""
    heads: int = 4
    """Grown tower: attention heads."""
    embedding_std: float = 0.7
    """Grown tower: start of the word embeddings. The usual 0.02 is swamped by the [CLS] token's own embedding when there are
    minutes, not days, to learn."""


class Tokenizer:
    """Texts -> ids, padded to the batch's longest and cut at the context length."""

    def __init__(self, source: str | Path, context_length: int):
        from transformers import AutoTokenizer

        self.context_length = context_length
        self.hf = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N,) texts -> (N, T) int64 ids."""
        batch = self.hf(list(texts), padding=True, truncation=True, max_length=self.context_length, return_tensors="pt")
        return batch["input_ids"]


class TextTower(nn.Module):
    """Token ids -> joint space, by open_clip's `HFTextEncoder` with a bias-free projection."""

    def __init__(self, config: TextConfig, embed_dim: int, source: str | Path, pretrained: bool):
        super().__init__()
        from open_clip.hf_model import HFTextEncoder

        self.encoder = HFTextEncoder(
            str(source), embed_dim, pooler_type=config.pooler, proj_type="linear", pretrained=pretrained
        )
        self.encoder.transformer.config.use_cache = False
        if config.locked:
            self.encoder.lock()

    def forward(self, ids: Tensor) -> Tensor:
        """(N, T) int64 -> (N, E), not normalised."""
        return self.encoder(ids)


def grow_text_source(folder: str | Path, texts: Iterable[str], config: TextConfig) -> Path:
    """Write a folder that a `TextTower` can be built from: a WordPiece vocabulary of these texts and a small BERT's config.

    Raises:
        ValueError: there is no text to learn a vocabulary from.
    """
    from tokenizers import Tokenizer as RawTokenizer
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("no report to learn a vocabulary from: the training split has none with text")
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    raw = RawTokenizer(models.WordPiece(word_pieces(words, config.vocabulary), unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer, raw.decoder = normalizer, splitter, decoders.WordPiece()
    ids = [(token, raw.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, **{f"{key}_token": value for key, value in names.items()})
    fast.save_pretrained(str(folder))
    BertConfig(
        vocab_size=len(fast),
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        max_position_embeddings=max(config.context_length, 16),
        initializer_range=config.width**-0.5,  # 0.02 suits width 768; here it would make all texts alike at the start
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=fast.pad_token_id,
    ).save_pretrained(str(folder))
    return Path(folder)


def word_pieces(words: Mapping[str, int], size: int) -> dict[str, int]:
    """A WordPiece vocabulary: special tokens, every letter (at a word's start and within), then whole words by frequency.

    The library's own trainer breaks ties by hash order, so that the same reports would give another vocabulary, and other numbers, on
    each run.
    """
    letters = sorted({letter for word in words for letter in word})
    often = sorted((word for word in words if len(word) > 1 and words[word] > 1), key=lambda word: (-words[word], word))
    pieces = SPECIAL + letters + [f"##{letter}" for letter in letters]
    return {piece: index for index, piece in enumerate(pieces + often[: max(0, size - len(pieces))])}


def widen_word_embeddings(tower: TextTower, std: float) -> None:
    """Draw the word embeddings anew with this spread (a grown tower's start); the padding token stays zero."""
    embedding = tower.encoder.transformer.get_input_embeddings()
    with torch.no_grad():
        embedding.weight.normal_(std=std)
        if embedding.padding_idx is not None:
            embedding.weight[embedding.padding_idx].zero_()
