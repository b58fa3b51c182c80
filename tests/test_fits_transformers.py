"""The Transformers Trainer: a tiny BERT evaluated, kept and exported at u, and resumed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rvsm
from rvsm.errors import RunError
from rvsm.optim import RVSM, Cubic, Rule
from rvsm.penalties import L1

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
import transformers.trainer as hf_trainer
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

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
    arguments = {
        "eval_strategy": "epoch", "metric_for_best_model": "loss", "greater_is_better": False,
    } | arguments  # fmt: skip
    arguments = TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=8, learning_rate=0.01,
        save_strategy="epoch", report_to=[], disable_tqdm=True, use_cpu=True, seed=3,
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


def test_a_dense_optimizer_is_refused(tmp_path):
    found, _ = trainer(tmp_path, {}, epochs=1)
    found.optimizer = torch.optim.SGD(found.model.parameters(), lr=0.1)
    before = {name: p.clone() for name, p in found.model.named_parameters()}
    with pytest.raises(RunError, match=r"found no rvsm\.RVSM; pass optimizers="):
        found.train()
    found.optimizer = None  # the trainer makes its own
    with pytest.raises(RunError, match=r"found no rvsm\.RVSM"):
        found.train()
    for name, p in found.model.named_parameters():
        assert torch.equal(p, before[name])


def test_without_a_metric_the_last_u_is_in_the_file(tmp_path):
    found, optimizer = trainer(tmp_path, {}, epochs=1, metric_for_best_model=None)
    found.train()
    kept = rvsm.load(tmp_path / BEST, model())
    with optimizer.sparse_weights():
        for name, p in found.model.named_parameters():
            assert torch.equal(kept.get_parameter(name), p)
    assert zeros_of(kept) > 0


@pytest.mark.parametrize("options", [{"epochs": 1}, {"eval_strategy": "no"}], ids=str)
def test_a_metric_that_never_came_is_told(tmp_path, options):
    found, _ = trainer(tmp_path, {}, **options)
    with pytest.warns(UserWarning, match="No evaluation with eval_loss came after"):
        found.train()
    assert zeros_of(rvsm.load(tmp_path / BEST, model())) > 0


def test_it_finalizes(tmp_path):
    found, optimizer = trainer(tmp_path, {})
    found.train()
    with optimizer.sparse_weights():
        u = {name: p.clone() for name, p in found.model.named_parameters()}
    found.finalize()
    assert optimizer.frozen
    for name, p in found.model.named_parameters():
        assert torch.equal(p, u[name])
    found.model.save_pretrained(tmp_path / "plain")
    exported = BertForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert zeros_of(exported) == zeros_of(found.model) > 0


class Hub:
    """Stands for the hub: remembers the weights of every folder that is pushed."""

    def __init__(self, monkeypatch):
        self.pushed = []
        monkeypatch.setattr(hf_trainer, "hf_api", lambda: self)
        monkeypatch.setattr(Trainer, "init_hf_repo", self._named)
        monkeypatch.setattr(Trainer, "create_model_card", lambda *args, **kwargs: None)

    def _named(self, *args, **kwargs):
        pass

    def upload_folder(self, *, folder_path, **kwargs):
        self.pushed.append(load_file(Path(folder_path, "model.safetensors")))


@pytest.mark.parametrize("through", ["push_to_hub", "save_model"])
def test_the_hub_gets_u(tmp_path, monkeypatch, through):
    hub = Hub(monkeypatch)
    arguments = {"push_to_hub": True, "hub_strategy": "end"} if through == "save_model" else {}
    found, optimizer = trainer(tmp_path, {}, **arguments)
    found.hub_model_id = "somebody/something"
    found.train()
    assert not hub.pushed
    w = {name: p.clone() for name, p in found.model.named_parameters()}
    getattr(found, through)()
    assert len(hub.pushed) == 1
    with optimizer.sparse_weights():
        for name, p in found.model.named_parameters():
            assert torch.equal(hub.pushed[0][name], p), name
    for name, p in found.model.named_parameters():
        assert torch.equal(p, w[name])


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_pushing_the_w_of_checkpoints_is_refused(tmp_path, monkeypatch, strategy):
    hub = Hub(monkeypatch)
    with pytest.raises(RunError, match=f'hub_strategy="{strategy}" would push the w'):
        trainer(tmp_path, {}, push_to_hub=True, hub_strategy=strategy)
    assert not hub.pushed


class Normed(torch.nn.Module):
    """A model of the Trainer's with batch norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        )

    def forward(self, inputs, labels=None):
        logits = self.net(inputs)
        found = {"logits": logits}
        if labels is not None:
            found = {"loss": torch.nn.functional.cross_entropy(logits, labels), **found}
        return found


def test_statistics_of_batch_norm_are_those_of_u(tmp_path):
    """In the file, the export and after finalize(), while training goes on with its own."""
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)) + 1
    data = [{"inputs": row, "labels": int(row[0] > 1)} for row in x]
    batches = [{"inputs": part} for part in x.split(8)]

    def run(name, recalibrate):
        net = Normed()
        arguments = TrainingArguments(
            str(tmp_path / name), num_train_epochs=3, per_device_train_batch_size=8, seed=3,
            eval_strategy="epoch", save_strategy="no", metric_for_best_model="loss", report_to=[],
            greater_is_better=False, disable_tqdm=True, use_cpu=True, logging_strategy="no",
            dataloader_pin_memory=False, label_names=["labels"],
        )  # fmt: skip
        base = torch.optim.AdamW(net.named_parameters(), lr=0.05)
        optimizer = RVSM(base, [Rule("net.[03].weight", L1(), sparsity=0.8)])
        found = SparseTrainer(
            net, arguments, train_dataset=data, eval_dataset=data, optimizers=(optimizer, None),
            recalibrate=recalibrate,
        )  # fmt: skip
        found.train()
        return found, optimizer

    found, optimizer = run("recalibrated", batches)
    plain, _ = run("plain", None)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    trained = found.model.net[1].running_mean.clone()

    best = Normed().eval()
    rvsm.load(tmp_path / "recalibrated" / BEST, best)
    with torch.no_grad():
        score = best(x, torch.tensor([row["labels"] for row in data]))["loss"]
    assert float(score) == pytest.approx(found.best.score, rel=1e-5)
    kept = best.net[1].running_mean.clone()
    rvsm.optim.recalibrate(best, batches)
    torch.testing.assert_close(best.net[1].running_mean, kept)

    with optimizer.sparse_weights():
        expected = copy.deepcopy(found.model)
    rvsm.optim.recalibrate(expected, batches)
    at_u = expected.net[1].running_mean
    assert not torch.allclose(at_u, trained)
    found.save_model(str(tmp_path / "exported"))
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    torch.testing.assert_close(exported["net.1.running_mean"], at_u)
    assert torch.equal(found.model.net[1].running_mean, trained)
    found.finalize()
    torch.testing.assert_close(found.model.net[1].running_mean, at_u)
