"""The Lightning callback: metrics, best file and zeros at u; runs go on from w bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rvsm
from rvsm.errors import RuleError, RunError
from rvsm.optim import RVSM, Cubic, Rule
from rvsm.penalties import L1

pytest.importorskip("lightning")
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from rvsm.integrations.lightning import SparseValidation

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|tensorboardX).*"),
    pytest.mark.filterwarnings("ignore:.*(log_every_n_steps|Checkpoint directory).*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*"),
]


def loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 6, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, :1] * x[:, 1:2] > 0).float()), batch_size=16)


class Module(LightningModule):
    def __init__(self, manual=False, options=None, dense=False):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        self.automatic_optimization = not manual
        self.options = options or {}
        self.dense = dense
        self.seen = []
        self.validated = []

    def loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self.net(batch[0]), batch[1])

    def training_step(self, batch, _):
        loss = self.loss(batch)
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch, _):
        self.seen.append(sum(int((self.net[i].weight == 0).sum()) for i in (0, 2)))
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            self.validated.append(copy.deepcopy(self.net.state_dict()))

    def predict_step(self, batch, _):
        return int((self.net[0].weight == 0).sum())

    def configure_optimizers(self):
        base = torch.optim.AdamW(self.named_parameters(), lr=0.01)
        if self.dense:
            return base
        rule = Rule("net.*.weight", L1(), sparsity=0.5, schedule=Cubic(0, 6))
        return RVSM(base, [rule], **self.options)


def fit(folder, module, *, epochs=4, callbacks=None, resume=None, **options):
    keep = SparseValidation(folder / "best.safetensors", "val_loss")
    checkpoint = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=CSVLogger(folder), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[keep, checkpoint, *(callbacks or [])], **options,
    )  # fmt: skip
    trainer.fit(module, loader(), loader(), ckpt_path=resume)
    return trainer, keep


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("options", [{}, {"grad_at": "u"}], ids=str)
def test_it_validates_keeps_and_logs_u(tmp_path, manual, options):
    module = Module(manual, options)
    trainer, keep = fit(tmp_path, module)
    optimizer = trainer.optimizers[0]
    zeros = [round(share * 56 * 0.5) for share in map(Cubic(0, 6), (0, 3, 6, 9, 12))]
    assert module.seen == [z for z in zeros for _ in range(3)][1:]  # two sanity batches

    found = rvsm.load(tmp_path / "best.safetensors")
    assert found.keys() == module.state_dict().keys()
    assert sum(int((found[f"net.{i}.weight"] == 0).sum()) for i in (0, 2)) == 28
    best = Module(manual, options)
    rvsm.load(tmp_path / "best.safetensors", best)
    losses = torch.stack([best.loss(batch).detach() for batch in loader()])
    assert float(losses.mean()) == pytest.approx(keep.best.score, rel=1e-6)

    rows = trainer.logger.experiment.metrics_file_path
    shares = [float(x) for x in column(rows, "zeros/all")]
    assert shares == pytest.approx([z / 56 for z in zeros[1:]])
    assert column(rows, "zeros/net.0.weight")
    if not options:
        assert all((p != 0).all() for p in optimizer.param_groups[0]["params"])
        saved = torch.load(tmp_path / "epoch=3.ckpt", weights_only=False)
        assert (saved["state_dict"]["net.0.weight"] != 0).all()


def column(path, name):
    import csv
    from pathlib import Path

    with Path(path).open() as file:
        return [row[name] for row in csv.DictReader(file) if row.get(name)]


@pytest.mark.parametrize("options", [{}, {"grad_at": "u"}, {"heal_from": 8}], ids=str)
def test_a_resumed_run_is_the_run_bit_for_bit(tmp_path, options):
    whole = Module(options=options)
    _, keep = fit(tmp_path / "whole", whole)
    fit(tmp_path / "part", Module(options=options), epochs=2)
    again = Module(options=options)
    with torch.no_grad():
        for p in again.parameters():
            p.add_(1)
    trainer, resumed = fit(tmp_path / "part", again, resume=tmp_path / "part" / "epoch=1.ckpt")
    assert trainer.optimizers[0].steps == 12
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert resumed.best.score == keep.best.score


def test_early_denser_epochs_are_not_the_best(tmp_path):
    """A run that gets worse as it gets sparser keeps the best of the sparse ones."""
    module = Module()
    scores = iter([9.0, 0.1, 2.0, 1.0, 3.0])  # sanity check, then four epochs
    module.validation_step = lambda batch, batch_idx: module.log(
        "val_loss", torch.tensor(module.score)
    )
    module.on_validation_start = lambda: setattr(module, "score", next(scores))
    _, keep = fit(tmp_path, module)
    assert keep.best.score == 1.0
    from rvsm.deploy.files import read_metadata

    told = {"score": "1.0", "step": "9", "strength": "1.0"}
    assert read_metadata(tmp_path / "best.safetensors") == told


def quiet_trainer(folder, callback, epochs=0):
    return Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
        callbacks=[callback],
    )  # fmt: skip


def test_tests_and_predictions_are_at_u_too(tmp_path):
    module = Module()
    trainer, _ = fit(tmp_path, module, epochs=2)
    w = copy.deepcopy(module.state_dict())
    with trainer.optimizers[0].sparse_weights():
        zeros = int((module.net[0].weight == 0).sum())
    for run in (trainer.test, trainer.validate):
        module.seen.clear()
        run(module, loader(), verbose=False)
        assert module.seen == [28, 28, 28]
    assert trainer.predict(module, loader()) == [zeros] * 3
    assert zeros > 0
    for name, value in module.state_dict().items():
        assert torch.equal(value, w[name])


@pytest.mark.parametrize("what", ["test", "validate", "predict"])
def test_a_trainer_that_knows_no_optimizer_says_so(tmp_path, what):
    module, path = Module(), tmp_path / "best.safetensors"
    fitted, _ = fit(tmp_path, module, epochs=2)
    fresh = quiet_trainer(tmp_path, SparseValidation(path, "val_loss"))
    with pytest.warns(UserWarning, match=r"may be w; load u with rvsm\.load from .*best"):
        getattr(fresh, what)(module, loader())
    other = Module()
    with pytest.warns(UserWarning, match="may be w"):  # the optimizer of another module
        getattr(fitted, what)(other, loader())
    with pytest.warns(UserWarning, match="from the best file first"):
        getattr(quiet_trainer(tmp_path, SparseValidation()), what)(module, loader())
    rvsm.load(path, other)
    other.seen.clear()
    found = getattr(fresh, what)(other, loader())  # warnings are errors
    if what == "predict":
        assert found == [int((other.net[0].weight == 0).sum())] * 3
    else:
        assert other.seen == [28, 28, 28]


def test_a_fit_that_keeps_nothing_says_so(tmp_path):
    with pytest.warns(UserWarning, match="kept no model in .*best"):
        fit(tmp_path, Module(), epochs=1)  # three steps of six
    assert not (tmp_path / "best.safetensors").exists()


class TwoOptimizers(Module):
    """The first has arrived at once, the second after nine steps."""

    def __init__(self):
        super().__init__(manual=True)

    def training_step(self, batch, _):
        loss = self.loss(batch)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        found = []
        for i, schedule in ((0, None), (2, Cubic(0, 9))):
            base = torch.optim.SGD(self.net[i].named_parameters(), lr=0.01)
            found.append(RVSM(base, [Rule("weight", L1(), sparsity=0.5, schedule=schedule)]))
        return found


def test_every_optimizer_must_have_arrived(tmp_path):
    from rvsm.deploy.files import read_metadata

    module = TwoOptimizers()
    scores = iter([9.0, 0.1, 0.2, 2.0, 3.0])  # sanity check, then four epochs
    module.validation_step = lambda batch, batch_idx: module.log(
        "val_loss", torch.tensor(module.score)
    )
    module.on_validation_start = lambda: setattr(module, "score", next(scores))
    _, keep = fit(tmp_path, module)
    assert keep.best.score == 2.0
    assert read_metadata(tmp_path / "best.safetensors")["step"] == "9"
    found = rvsm.load(tmp_path / "best.safetensors")
    assert sum(int((found[f"net.{i}.weight"] == 0).sum()) for i in (0, 2)) == 28


class Normed(Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
        )  # fmt: skip
        self.statistics = []

    def forward(self, x):
        return self.net(x)

    def loss(self, batch):
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", self.loss(batch), batch_size=len(batch[0]))
        self.statistics.append(self.net[1].running_mean.clone())

    def predict_step(self, batch, _):
        return self.net[1].running_mean.clone()

    def configure_optimizers(self):
        base = torch.optim.AdamW(self.named_parameters(), lr=0.05)
        return RVSM(base, [Rule("net.[03].weight", L1(), sparsity=0.8)])


def test_statistics_of_batch_norm_are_those_of_u(tmp_path):
    """In validation, prediction and the file, while training goes on with its own."""
    module, plain = Normed(), Normed()
    keep = SparseValidation(tmp_path / "best.safetensors", "val_loss", recalibrate=loader())
    trainer = quiet_trainer(tmp_path, keep, epochs=3)
    trainer.fit(module, loader(), loader())
    quiet_trainer(tmp_path, SparseValidation(), epochs=3).fit(plain, loader(), loader())
    for name, value in plain.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name

    best = Normed().eval()
    rvsm.load(tmp_path / "best.safetensors", best)
    kept = best.net[1].running_mean.clone()
    assert any(torch.equal(kept, seen) for seen in module.statistics)
    assert not any(torch.equal(kept, seen) for seen in plain.statistics)
    losses = torch.stack([best.loss(batch).detach() for batch in loader()])
    assert float(losses.mean()) == pytest.approx(keep.best.score, rel=1e-6)
    rvsm.optim.recalibrate(best, loader())
    torch.testing.assert_close(best.net[1].running_mean, kept)

    before = module.net[1].running_mean.clone()
    predicted = trainer.predict(module, loader())[0]
    assert torch.equal(module.net[1].running_mean, before)
    with trainer.optimizers[0].sparse_weights():
        rvsm.optim.recalibrate(module, loader())
    torch.testing.assert_close(predicted, module.net[1].running_mean)


def test_an_exception_in_validation_puts_w_back(tmp_path):
    module = Module()

    def fail(batch, batch_idx):
        if module.trainer.global_step:
            raise KeyError("broken")

    module.validation_step = fail
    with pytest.raises(KeyError, match="broken"):
        fit(tmp_path, module)
    assert (module.net[0].weight != 0).all()


def test_what_it_refuses(tmp_path):
    with pytest.raises(RunError, match="needs monitor="):
        SparseValidation(tmp_path / "best.safetensors")
    with pytest.raises(RuleError, match="mode must be 'min' or 'max'"):
        SparseValidation(tmp_path / "best.safetensors", "val_loss", "largest")
    with pytest.raises(RunError, match=r"found no rvsm\.RVSM"):
        fit(tmp_path, Module(dense=True))
    module = Module()
    module.validation_step = lambda batch, batch_idx: None
    with pytest.raises(RunError, match="the metric 'val_loss' is not logged"):
        fit(tmp_path, module)
    assert module.net[0].weight.isfinite().all()
