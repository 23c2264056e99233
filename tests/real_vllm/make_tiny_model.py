#!/usr/bin/env python3
"""Write a small random-weight chat model that a real vLLM server can load.

Nothing is downloaded.  The tokenizer is a byte-level BPE trained on the text
of the standard library's own ``pydoc_data.topics``; the weights are drawn from
a seeded generator, so the same arguments (and the same Python / library
versions) give the same bytes.

    python make_tiny_model.py OUT_DIR [--preset tiny|small|medium|crash] [--seed 7]
"""

import argparse
import hashlib
import json
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PRESETS = {
    # name: hidden, intermediate, layers, heads, kv_heads
    # vLLM's CPU attention wants a head width (hidden / heads) of 32, 64, 80...
    "tiny": (64, 128, 2, 2, 1),
    # Head width 16: the server starts and says it is healthy, then its engine
    # dies on the first request.  A real engine crash, on demand.
    "crash": (64, 128, 2, 4, 2),
    "small": (512, 1536, 8, 8, 4),
    "medium": (1024, 3072, 12, 16, 8),
}

SPECIALS = ["<|pad|>", "<|start|>", "<|end|>", "<|eos|>"]

# One turn is  <|start|>ROLE\nTEXT<|end|>\n .  A continued final message keeps
# its turn open because the renderer cuts the template after the message text.
TEMPLATE = (
    "{%- for m in messages -%}"
    "{{ '<|start|>' + m['role'] + '\\n' + m['content'] + '<|end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start|>assistant\\n' }}{%- endif -%}"
)


def corpus():
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def build_tokenizer(out, vocab, max_len):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=SPECIALS,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        model_max_length=max_len,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(out)
    return fast


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--preset", choices=PRESETS, default="tiny")
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--vocab", type=int, default=4096)
    ap.add_argument("--max-len", type=int, default=16384)
    ap.add_argument(
        "--logit-gain", type=float, default=6.0, help="spread of the output logits; larger is more repeatable text"
    )
    args = ap.parse_args()

    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    tok = build_tokenizer(args.out, args.vocab, args.max_len)
    hidden, inter, layers, heads, kv_heads = PRESETS[args.preset]
    cfg = Qwen2Config(
        vocab_size=len(tok),
        hidden_size=hidden,
        intermediate_size=inter,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=args.max_len,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    torch.manual_seed(args.seed)
    model = Qwen2ForCausalLM(cfg)
    with torch.no_grad():
        gen = torch.Generator().manual_seed(args.seed)
        for name, p in sorted(model.named_parameters()):
            if name.endswith("norm.weight"):
                p.fill_(1.0)
            elif name.endswith(".bias"):
                p.zero_()
            elif name == "lm_head.weight":
                p.normal_(0.0, args.logit_gain / hidden**0.5, generator=gen)
                # Only " word" pieces can win: the reply is plain ASCII that runs
                # to max_tokens (no end token), every streamed piece is whole
                # text, and the text of any cut of the reply tokenizes back to
                # exactly the same ids, so a continued reply can equal an
                # unbroken one.
                for tid in range(len(tok)):
                    piece = tok.decode([tid])
                    ok = (
                        piece[:1] == " "
                        and len(piece) > 2
                        and piece[1:].isascii()
                        and piece[1:].isalpha()
                        and tok.encode(piece) == [tid]
                    )
                    if not ok:
                        p[tid].zero_()
            elif name == "model.embed_tokens.weight":
                p.normal_(0.0, 1.0, generator=gen)
            else:
                p.normal_(0.0, 1.0 / p.shape[1] ** 0.5, generator=gen)
    model.to(torch.bfloat16).save_pretrained(args.out, safe_serialization=True)
    (args.out / "generation_config.json").write_text(
        json.dumps({"eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}) + "\n"
    )
    n = sum(p.numel() for p in model.parameters())
    digest = hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest()
    print(f"{args.preset}: {n / 1e6:.2f} M parameters, vocab {len(tok)}, weights sha256 {digest[:16]}")


if __name__ == "__main__":
    main()
