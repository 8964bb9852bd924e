"""The explorer: choices as widgets, for a notebook or Voila, and what a model makes of them.

Its notebook shows no progress bars: a page would show an error where a bar has gone."""

import os
import time
from html import escape

import ipywidgets as widgets
import numpy as np

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.experiment.checkpoints import checkpoint_folder
from bivrec.experiment.interests import History, allocate_patches
from bivrec.explore import html
from bivrec.explore.api import add_noise, interest_lists, item_table, top_items
from bivrec.portable.folder import load
from bivrec.portable.recommender import UNTRAINED, Recommender

os.environ.setdefault("BIVREC_TERMINAL", "")  # see `bivrec.outputs.progress`

NOISES = {"none": None, "items replaced": "replace", "items inserted": "insert",
          "items deleted": "delete", "items moved": "shuffle", "features blurred": "blur",
          "features swapped": "swap", "text missing": "no_text",
          "images missing": "no_image"}  # fmt: skip

VIEWS = [("ID view", "id"), ("multimodal view", "multimodal")]


def saved_models(domain: Domain) -> list[str]:
    """The models of a dataset with a checkpoint in build/."""
    files = checkpoint_folder(domain).glob("*.safetensors")
    return sorted({file.stem.rpartition("-")[0] for file in files})


class Explorer(widgets.VBox):
    """Dataset, model, user, history and noise to choose, and the lists, patches and interests that
    follow from them.

    Offers the datasets with checkpoints, and planted, whose models are trained when chosen."""

    def __init__(self, dataset: str = "planted", profile: str = "default"):
        self.profile, self.loaded, self.quiet = profile, {}, False
        self.recommender: Recommender | None = None  # where none can be loaded
        names = Domain("planted", profile=profile).settings.datasets
        self.saved = {name: saved_models(Domain(name, profile=profile)) for name in names}
        datasets = ["planted", dataset, *(name for name, models in self.saved.items() if models)]
        self._make_choices(list(dict.fromkeys(datasets)), dataset)
        self.status, self.lists, self.patches, self.interests, self.past = (
            widgets.HTML() for _ in range(5)
        )
        for part in (self.lists, self.patches, self.interests, self.past):
            part.add_class("bv")
        super().__init__([widgets.HTML(html.STYLE), *self._arrange()])
        self._connect()
        self.choose_dataset()

    def _make_choices(self, datasets: list[str], dataset: str) -> None:
        look = {"style": {"description_width": "70px"}}
        look["layout"] = widgets.Layout(width="290px", max_width="100%")
        self.dataset = widgets.Dropdown(
            options=datasets, value=dataset, description="dataset", **look
        )
        self.model = widgets.Dropdown(description="model", **look)
        self.user = widgets.Dropdown(description="user", **look)
        self.noise = widgets.Dropdown(options=list(NOISES), description="noise", **look)
        self.level = widgets.FloatSlider(
            0.3, min=0.0, max=1.0, step=0.1, description="level", continuous_update=False, **look
        )
        self.addition = widgets.Combobox(
            placeholder="begin to type a title", description="new item", ensure_option=True, **look
        )
        self.removal = widgets.Dropdown(description="in history", **look)
        self.view = widgets.ToggleButtons(options=VIEWS, style={"button_width": "130px"})
        self.add, self.remove, self.reset = (
            widgets.Button(description=text, tooltip=tip, layout=widgets.Layout(width="90px"))
            for text, tip in (
                ("Add", "adds the item as the newest"),
                ("Remove", "takes the item out"),
                ("Reset", "brings the user's own history back"),
            )
        )

    def _arrange(self) -> list[widgets.Widget]:
        changes = (self.addition, self.add, self.removal, self.remove, self.reset)
        rows = ((self.dataset, self.model, self.user), changes, (self.noise, self.level))
        flow = widgets.Layout(flex_flow="row wrap")
        parts = (
            ("What comes next", self.lists),
            ("Patches, and the interests that own each", self.view, self.patches),
            ("Interests: what each owns and recommends", self.interests),
            ("History, oldest first", self.past),
        )
        shown = [widgets.HBox(row, layout=flow) for row in rows] + [self.status]
        for title, *contents in parts:
            shown += [widgets.HTML(f"<h3>{title}</h3>"), *contents]
        return shown

    def _connect(self) -> None:
        reactions = {
            self.dataset: self.choose_dataset,
            self.model: self.choose_model,
            self.user: self.choose_user,
            **dict.fromkeys((self.noise, self.level, self.view), self.show),
        }
        for choice, react in reactions.items():
            choice.observe(lambda _, react=react: self.quiet or react(), "value")
        self.add.on_click(lambda _: self.add_item())
        self.remove.on_click(lambda _: self.remove_item())
        self.reset.on_click(lambda _: self.choose_user())

    def fill(self, choice: widgets.Dropdown, options: list, value) -> None:
        """Gives a choice new options without a reaction to them."""
        self.quiet, choice.options, choice.value, self.quiet = True, options, value, False

    def choose_dataset(self) -> None:
        """Offers the models of the chosen dataset."""
        name = self.dataset.value
        settings = Domain(name, profile=self.profile).settings
        models = list(settings.studies.models)
        if name != "planted":
            untrained = [model for model in models if settings.models[model].family in UNTRAINED]
            models = [*self.saved[name], *untrained]
        self.fill(self.model, models, "bivrec" if "bivrec" in models else models[0])
        self.choose_model()

    def choose_model(self) -> None:
        """Loads the chosen model and offers the test users of its fold, who are new to it."""
        key = (self.dataset.value, self.model.value)
        if key not in self.loaded:
            note = "planted's models are trained now, in seconds"
            self.status.value = f"Loading {key[1]} on {key[0]}; {note}."
            try:
                self.loaded[key] = load(*key, profile=self.profile)
            except (SettingsError, ValueError) as error:
                self.clear()
                self.status.value = f"<b>{escape(str(error))}</b>"
                return
        self.recommender = self.loaded[key]
        sequences = self.recommender.domain.sequences
        self.cases = self.recommender.domain.fold(self.recommender.trained.seed).test
        titles = html.name_items(item_table(self.recommender, np.arange(sequences.num_items)))
        labels = [f"{title} · {item}" for title, item in zip(titles, self.recommender.ids)]
        self.items = {label: number for number, label in enumerate(labels)}
        self.addition.options, self.addition.value = labels, ""
        users = [
            (f"{sequences.users[user]} ({len(history)} items)", case)
            for case, (user, history) in enumerate(zip(self.cases.users, self.cases.histories))
        ]
        same = self.user.value if self.user.options == tuple(users) else 0
        self.fill(self.user, users, same)
        self.choose_user()

    def clear(self) -> None:
        """Shows nothing, as no model is loaded."""
        self.recommender, self.items = None, {}
        self.addition.options, self.addition.value = [], ""
        for choice in (self.user, self.removal):
            self.fill(choice, [], None)
        for part in (self.lists, self.patches, self.interests, self.past):
            part.value = ""

    def choose_user(self) -> None:
        """Takes the chosen user's history and targets."""
        if self.recommender is None:
            return
        self.history = self.cases.histories[self.user.value]
        self.targets = self.cases.targets[self.user.value]
        self.show()

    def add_item(self) -> None:
        """Appends the chosen item to the history."""
        if self.addition.value in self.items:
            self.history = np.append(self.history, self.items[self.addition.value])
            self.addition.value = ""
        self.show()

    def remove_item(self) -> None:
        """Takes the chosen item out of the history, unless it is the last one."""
        if self.recommender is None:
            return
        if len(self.history) == 1:
            note = "A history without items cannot be continued; add another item first."
            self.status.value = f"<b>{note}</b>"
            return
        self.history = np.delete(self.history, self.removal.value)
        self.show()

    def noisy(self) -> tuple[Recommender, History]:
        """The model and the history under the chosen noise."""
        kind = NOISES[self.noise.value]
        self.level.disabled = kind is None
        if kind is None:
            return self.recommender, self.history
        return add_noise(self.recommender, self.history, self.targets, kind, self.level.value)

    def show(self) -> None:
        """Redraws everything below the choices."""
        if self.recommender is None:
            return
        started = time.perf_counter()
        model, history = self.noisy()
        table = item_table(model, history)
        self.lists.value = html.show_top(top_items(model, history, self.targets))
        self.past.value = html.show_history(table, model.max_length)
        self.show_interests(model, history, html.name_items(table))
        names = html.name_items(item_table(self.recommender, self.history))
        options = [(f"{number + 1}. {name}", number) for number, name in enumerate(names)]
        self.fill(self.removal, options, len(names) - 1)
        seconds = time.perf_counter() - started
        followed = html.name_items(item_table(self.recommender, self.targets[:12]))
        more = f", and {len(self.targets) - 12} more" if len(self.targets) > 12 else ""
        self.status.value = (
            f"Shown in {seconds:.2f} s. What truly followed, {len(self.targets)} items: "
            f"{escape(', '.join(followed))}{more}."
        )

    def show_interests(self, model: Recommender, history: History, titles: list[str]) -> None:
        """The patches, and what each interest owns and recommends, in the chosen or only view."""
        patches, lists = allocate_patches(model.trained, history), interest_lists(model, history)
        if patches.empty:
            self.patches.value = self.interests.value = "<p>This model has no interests.</p>"
            return
        views = set(patches["view"])
        view = self.view.value if self.view.value in views else max(views)
        self.patches.value = html.show_patches(patches[patches["view"] == view], titles)
        self.interests.value = html.show_interests(lists[lists["view"] == view])
