"""Losses and gradients of one training step against the recorded ones, the refinement loss included."""

from __future__ import annotations

import numpy as np
import pytest
from test_parity import MANIFEST, ParitySet, _cut, parity
from test_parity import pytestmark as needs_parity

from pixellm_model.learning.packing import pack_questions
from pixellm_model.learning.training import LossRecipe, forward_losses
from pixellm_model.samples import PLACEHOLDER, Question

__all__ = ["parity"]  # the fixture
pytestmark = needs_parity
NEAR = 1e-3


@pytest.mark.parametrize(
    ("case", "refine", "total"), [("train", False, "loss"), ("train_refine", True, "loss_backward")]
)
def test_a_training_step_has_the_recorded_losses_and_gradients(
    parity: ParitySet, case: str, refine: bool, total: str
) -> None:
    recorded = MANIFEST["cases"][case]
    recipe = LossRecipe(refine=refine, refine_alpha=2.0, photo_size=True)
    batch = []
    for number, (image, items) in enumerate(recorded["groups"]):
        masks = parity.tensors[f"train/gt_masks_{number}"].numpy().astype(bool)
        assert MANIFEST["arrays"][f"train/gt_masks_{number}"].get("slice") is None
        questions, at = [], 0
        for item in items:
            _, text, answer = recorded["items"][item]
            count = answer.count(PLACEHOLDER)
            named = tuple(masks[at : at + count])
            questions.append(Question(text, answer, named, ("thing",) * count))
            at += count
        photo = np.array(parity.image(image))
        batch.append(pack_questions(photo, questions, parity.model.config, parity.tokenizer, True))
    parity.model.requires_grad_(True)
    parity.model.model.vision_tower.requires_grad_(False)
    losses = forward_losses(parity.model, parity.tokenizer, batch, recipe)
    losses.total.backward()
    try:
        values = recorded["values"]
        assert losses.parts["ce"] == pytest.approx(values["ce_loss"], rel=NEAR)
        bce = values["mask_bce_loss"] + (values["overlap_loss_weighted"] if refine else 0.0)
        assert recipe.bce_weight * losses.parts["bce"] == pytest.approx(bce, rel=NEAR)
        assert recipe.dice_weight * losses.parts["dice"] == pytest.approx(values["mask_dice_loss"], rel=NEAR)
        assert float(losses.total) == pytest.approx(values[total], rel=NEAR)
        parameters = dict(parity.model.named_parameters())
        assert len(values["gradients"]) > 15
        for name, expected in values["gradients"].items():
            gradient = parameters[name].grad
            assert gradient is not None, name
            assert float(gradient.norm()) == pytest.approx(expected["grad_l2"], rel=NEAR), name
            key = f"train/grad/{name}"
            if not refine and key in parity.tensors:
                ours = _cut(gradient.flatten(1), MANIFEST["arrays"][key].get("slice"))
                worst = float((ours - parity.tensors[key]).abs().max())
                assert worst <= NEAR * expected["grad_absmax"], name
    finally:
        parity.model.zero_grad(set_to_none=True)
        parity.model.requires_grad_(False)
