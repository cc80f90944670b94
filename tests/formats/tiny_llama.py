"""A tiny Llama with three layers and models near it, the same on every machine: for mergekit's and our own merges."""

import math
from pathlib import Path


CONFIG = {
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
CONFIG |= {"num_key_value_heads": 1, "max_position_embeddings": 16, "tie_word_embeddings": False}


def make_models(folder):
    """Save the models `base`, `a`, `b` and `c` below a folder.

    Args:
        folder (`str` or `Path`):
            Folder that is made.
    """
    import torch
    import transformers

    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    for number, name in enumerate(("base", "a", "b", "c")):
        state = {}
        for place, (key, tensor) in enumerate(sorted(model.state_dict().items())):
            count = torch.arange(tensor.numel(), dtype=torch.float64) + 1
            values = torch.sin(count * (1.7 + place)) * 0.3
            # quadratic, so that the changes of no two models have nearly one direction
            change = torch.sin(count * count * math.sqrt(number + 1) + place) * 0.1 * bool(number)
            state[key] = (values + change).reshape(tensor.shape).float()
        model.load_state_dict(state)
        model.save_pretrained(Path(folder) / name)


def digest(folder):
    """Three elements of each tensor of a saved model, from its first to its last.

    Args:
        folder (`str` or `Path`):
            Folder of the model.
    """
    from safetensors.torch import load_file

    found = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            flat = tensor.flatten().double()
            found[name] = [round(float(flat[index]), 8) for index in (0, len(flat) // 2, -1)]
    return found
