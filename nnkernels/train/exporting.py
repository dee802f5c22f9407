"""A trained network as a file that runs without this package: torch.export's, or ONNX."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..quiet import silenced
from .predictor import Predictor

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


def example(predictor: Predictor) -> Tensor:
    """Three inputs around the training data's mean, or of the alphabet's characters."""
    problem = predictor.problem
    generator = torch.Generator().manual_seed(0)
    if problem.kind == "characters":
        return torch.randint(problem.outputs, (3, *problem.shape), generator=generator)
    mean, std = torch.tensor(problem.mean), torch.tensor(problem.std)
    return (mean + std * torch.randn(3, *problem.shape, generator=generator)).to(predictor.dtype)


def export(predictor: Predictor, path: Path, form: str) -> float:
    """Writes the network for batches of any size, runs the file, and compares.

    Args:
        predictor: what is exported, probabilities and units included.
        path: of the file.
        form: "onnx" or "torch".

    Returns:
        The greatest difference between what the file says and what the predictor says, of three inputs.

    Raises:
        ImportError: ONNX or ONNX Runtime is missing.
    """
    inputs = example(predictor)
    sizes = {0: torch.export.Dim("batch")}
    with torch.no_grad(), silenced():
        expected = predictor(inputs[:2])
        exported = torch.export.export(predictor, (inputs,), dynamic_shapes=(sizes,))
        if form == "torch":
            torch.export.save(exported, path)
            answer = torch.export.load(path).module()(inputs[:2])
        else:
            import onnxruntime

            program = torch.onnx.export(exported, (), input_names=["input"], output_names=["output"], verbose=False)
            assert program is not None
            program.save(path)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs[:2].numpy()})[0])
    return (answer - expected).abs().max().item()
