"""The Transformers Trainer: a tiny BERT evaluated, kept and exported at u, and resumed."""

from __future__ import annotations

import pytest
import torch

import rvsm
from rvsm.errors import RunError
from rvsm.optim import RVSM, Cubic, Rule
from rvsm.penalties import L1

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from rvsm.integrations.transformers import BEST, SparseTrainer

PATTERN = "bert.encoder.*.weight"


def model():
    torch.manual_seed(1)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=12, max_position_embeddings=8, num_labels=2,
        )
    )  # fmt: skip


def rows():
    tokens = torch.randint(20, (24, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": int(row[0] > row[1])} for row in tokens]


def matrices(net):
    return {n: p for n, p in net.named_parameters() if n.startswith("bert.encoder") and p.dim() > 1}


def zeros_of(net):
    return sum(int((p == 0).sum()) for p in matrices(net).values())


def trainer(folder, options, *, epochs=4, **arguments):
    net = model()
    arguments = TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=8, learning_rate=0.01,
        eval_strategy="epoch", save_strategy="epoch", metric_for_best_model="loss",
        greater_is_better=False, report_to=[], disable_tqdm=True, use_cpu=True, seed=3,
        logging_strategy="no", dataloader_pin_memory=False, **arguments,
    )  # fmt: skip
    base = torch.optim.AdamW(net.named_parameters(), lr=0.01)
    rule = Rule(PATTERN, L1(), sparsity=0.5, schedule=Cubic(0, 6))
    optimizer = RVSM(base, [Rule("*.bias", L1(), lam=0.0), rule], **options)
    found = SparseTrainer(
        net, arguments, train_dataset=rows(), eval_dataset=rows(), optimizers=(optimizer, None)
    )
    return found, optimizer


@pytest.mark.parametrize("options", [{}, {"grad_at": "u"}, {"heal_from": 10}], ids=str)
def test_it_evaluates_keeps_exports_and_resumes(tmp_path, options):
    whole, optimizer = trainer(tmp_path / "whole", options)
    whole.train()
    names = [n for n in optimizer.zeros() if not n.endswith("bias")]
    half = round(0.5 * sum(optimizer.zeros()[n][1] for n in names))
    assert optimizer.steps == 12
    assert sum(optimizer.zeros()[n][0] for n in names) == half

    history = [row for row in whole.state.log_history if "zeros/all" in row]
    shares = [row["zeros/all"] for row in history]
    assert len(shares) == 4
    assert shares[0] < shares[1] == shares[2] == shares[3]
    losses = [row["eval_loss"] for row in whole.state.log_history if "eval_loss" in row]
    assert whole.best.score == min(losses[1:])
    kept = rvsm.load(tmp_path / "whole" / BEST, model())
    checked, _ = trainer(tmp_path / "check", options)
    checked.model.load_state_dict(kept.state_dict())
    checked.optimizer = None  # its weights as they are
    assert checked.evaluate()["eval_loss"] == pytest.approx(whole.best.score, rel=1e-6)

    whole.save_model(str(tmp_path / "exported"))
    exported = BertForSequenceClassification.from_pretrained(tmp_path / "exported")
    with optimizer.sparse_weights():
        for name, p in whole.model.named_parameters():
            assert torch.equal(exported.get_parameter(name), p)
    checkpoint = BertForSequenceClassification.from_pretrained(tmp_path / "whole" / "checkpoint-12")
    for name, p in whole.model.named_parameters():
        assert torch.equal(checkpoint.get_parameter(name), p), "checkpoints hold what trains on"

    again, resumed = trainer(tmp_path / "whole", options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert resumed.steps == 12
    for (name, ours), theirs in zip(
        again.model.named_parameters(), whole.model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert again.best.score == whole.best.score


def test_loading_the_best_w_at_the_end_is_refused(tmp_path):
    with pytest.raises(RunError, match="load_best_model_at_end would load w"):
        trainer(tmp_path, {}, load_best_model_at_end=True)


def test_a_dense_trainer_is_a_trainer(tmp_path):
    found, _ = trainer(tmp_path, {}, epochs=1)
    found.optimizer = torch.optim.SGD(found.model.parameters(), lr=0.1)
    found.train()
    assert zeros_of(found.model) == 0
    assert not (tmp_path / BEST).exists()
