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

    assert read_metadata(tmp_path / "best.safetensors") == {"score": "1.0", "step": "9"}


def test_tests_and_predictions_are_at_u_too(tmp_path):
    module = Module()
    trainer, _ = fit(tmp_path, module, epochs=2)
    module.seen.clear()
    w = copy.deepcopy(module.state_dict())
    trainer.test(module, loader(), verbose=False)
    zeros = trainer.predict(module, loader())
    assert len(set(zeros)) == 1
    assert zeros[0] > 0
    # Outside of fit there may be no optimizer at hand; then the model's own weights are tested.
    assert set(module.seen) <= {28, 0}
    for name, value in module.state_dict().items():
        assert torch.equal(value, w[name])


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
