"""Explorer: the tables of `explore` as widgets, for a notebook or Voila: every choice changes what is shown at once."""

import time
from html import escape

import ipywidgets as widgets
import numpy as np
import pandas as pd
import seaborn as sns

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.explore.api import (
    UNTRAINED,
    History,
    Recommender,
    add_noise,
    allocate_patches,
    checkpoint_folder,
    item_table,
    load,
    nearest_items,
    top_items,
)
from bivrec.plots.style import VIEW_NAMES

STYLE = """<style>
.bv table{border-collapse:collapse;font-size:13px;line-height:1.35}.bv th{text-align:left;padding:3px 10px 3px 0;vertical-align:bottom}
.bv td{padding:1px 10px 1px 0;vertical-align:top}.bv .n{text-align:right;opacity:.8}.bv .out{opacity:.6}
.bv .row{display:flex;gap:2px;margin:0 0 4px;overflow-x:auto}.bv .row>b{flex:0 0 7em;white-space:nowrap;line-height:22px;font-weight:normal;font-size:12px}
.bv .p{flex:1 1 0;min-width:14px;overflow:hidden;text-align:center;font-size:12px;line-height:22px;height:22px;border-radius:3px;color:#111}
.bv .side{display:flex;flex-wrap:wrap;gap:24px}.bv h4{margin:10px 0 4px;font-size:14px}.bv .t{font-weight:700}.bv .k{padding:0 6px;border-radius:3px;color:#111}
</style>"""

NOISES = {"none": None, "items replaced": "replace", "items inserted": "insert", "items deleted": "delete", "items moved": "shuffle",
    "features blurred": "blur", "features swapped": "swap", "text missing": "no_text", "images missing": "no_image"}  # fmt: skip


def shade(interest: int) -> str:
    """An interest's own colour, light enough for dark text on it."""
    colour = sns.color_palette("colorblind")[interest % 10]
    return "#" + "".join(f"{round(255 * (0.45 * part + 0.55)):02x}" for part in colour)


def named(row) -> str:
    """A title with its year, where it is known and not in the title already."""
    title = str(row.title) or str(row.item)
    return f"{title} ({row.year})" if row.year and f"({row.year})" not in title else title


def show_history(table: pd.DataFrame, max_length: int) -> str:
    """The history, oldest first; what the model no longer reads is pale."""
    unread = len(table) - max_length
    rows = "".join(
        f'<tr class="{"out" if place < unread else "in"}"><td class="n">{place + 1}</td><td>{escape(named(row))}</td><td>{escape(str(row.genres))}</td></tr>'
        for place, row in enumerate(table.itertuples())
    )
    told = f"<p>The model reads the newest {max_length}.</p>" if unread > 0 else ""
    return f"{told}<table><thead><tr><th>#</th><th>title</th><th>genres</th></tr></thead><tbody>{rows}</tbody></table>"


def show_patches(patches: pd.DataFrame, titles: list[str]) -> str:
    """The history cut at each scale, oldest on the left: a block a patch, with the colour and number of its interest."""
    rows = []
    for scale, part in patches.groupby("scale"):
        blocks = [
            f'<div class="p" style="flex-grow:{p.last - p.first + 1};background:{shade(p.interest)}" '
            f'title="{escape(" + ".join(titles[p.first : p.last + 1]), quote=True)}: interest {p.interest}, share {p.share:.2f}">{p.interest}</div>'
            for p in part.itertuples()
        ]
        rows.append(f'<div class="row"><b>patches of {scale}</b>{"".join(blocks)}</div>')
    return "".join(rows)


def show_nearest(nearest: pd.DataFrame) -> str:
    """The items nearest to each interest, a column an interest."""
    columns = [
        f'<div><span class="k" style="background:{shade(interest)}">interest {interest}</span><table>'
        + "".join(f"<tr><td>{escape(named(row))}</td></tr>" for row in part.itertuples())
        + "</table></div>"
        for interest, part in nearest.groupby("interest")
    ]
    return f'<div class="side">{"".join(columns)}</div>'


def show_top(top: pd.DataFrame) -> str:
    """Each view's list beside the others', true targets in bold with a star."""
    columns = []
    for view, part in top.groupby("view", sort=False):
        rows = "".join(
            f'<tr class="{"t" if row.target else ""}"><td class="n">{row.rank}</td><td>{"★ " if row.target else ""}{escape(named(row))}</td></tr>'
            for row in part.itertuples()
        )
        found = f"{int(part['target'].sum())} of {len(part)} are true targets"
        columns.append(
            f"<div><h4>{VIEW_NAMES[view]}</h4><div>{found}</div><table>{rows}</table></div>"
        )
    return f'<div class="side">{"".join(columns)}</div>'


class Explorer(widgets.VBox):
    """Dataset, model, user, history and noise to choose, and what the model makes of them. Datasets are those with
    checkpoints, and planted, whose models are trained when first chosen, in seconds."""

    def __init__(self, dataset: str = "planted", profile: str = "default"):
        self.profile, self.known, self.quiet = profile, {}, False
        folders = {
            name: checkpoint_folder(Domain(name, profile=profile))
            for name in Domain("planted", profile=profile).settings.datasets
        }
        self.kept = {
            name: sorted({path.stem.rpartition("-")[0] for path in folder.glob("*.safetensors")})
            for name, folder in folders.items()
        }
        datasets = list(
            dict.fromkeys(
                ["planted", dataset, *(name for name, models in self.kept.items() if models)]
            )
        )
        wide = {
            "style": {"description_width": "70px"},
            "layout": widgets.Layout(width="290px", max_width="100%"),
        }
        self.dataset = widgets.Dropdown(
            options=datasets, value=dataset, description="dataset", **wide
        )
        self.model = widgets.Dropdown(description="model", **wide)
        self.user = widgets.Dropdown(description="user", **wide)
        self.noise = widgets.Dropdown(options=list(NOISES), description="noise", **wide)
        self.level = widgets.FloatSlider(
            0.3, min=0.0, max=1.0, step=0.1, description="level", continuous_update=False, **wide
        )
        self.addition = widgets.Combobox(
            placeholder="begin to type a title", description="new item", ensure_option=True, **wide
        )
        self.removal = widgets.Dropdown(description="in history", **wide)
        self.view = widgets.ToggleButtons(
            options=[("ID view", "id"), ("multimodal view", "multimodal")],
            style={"button_width": "130px"},
        )
        self.add, self.remove, self.reset = (
            widgets.Button(description=text, tooltip=tip, layout=widgets.Layout(width="90px"))
            for text, tip in (
                ("Add", "adds the item as the newest"),
                ("Remove", "takes the item out"),
                ("Reset", "brings the user's own history back"),
            )
        )
        self.status, self.lists, self.patches, self.nearest, self.past = (
            widgets.HTML() for _ in range(5)
        )
        for part in (self.lists, self.patches, self.nearest, self.past):
            part.add_class("bv")
        for chosen, react in (
            (self.dataset, self.enter),
            (self.model, self.choose),
            (self.user, self.start),
            (self.noise, self.show),
            (self.level, self.show),
            (self.view, self.show),
        ):
            chosen.observe(lambda change, react=react: self.quiet or react(), "value")
        self.add.on_click(lambda button: self.change(add=True))
        self.remove.on_click(lambda button: self.change(add=False))
        self.reset.on_click(lambda button: self.start())
        flow = widgets.Layout(flex_flow="row wrap")
        rows = [widgets.HBox(row, layout=flow) for row in (
            [self.dataset, self.model, self.user], [self.addition, self.add, self.removal, self.remove, self.reset], [self.noise, self.level])]  # fmt: skip
        heads = {
            text: widgets.HTML(f"<h3>{text}</h3>")
            for text in (
                "What comes next",
                "Patches, and the interest each is given to",
                "Items nearest to each interest",
                "History, oldest first",
            )
        }
        shown = [
            part
            for pair in zip(heads.values(), (self.lists, self.patches, self.nearest, self.past))
            for part in pair
        ]
        shown.insert(3, self.view)
        super().__init__([widgets.HTML(STYLE), *rows, self.status, *shown])
        self.enter()

    def enter(self) -> None:
        """A dataset: its models."""
        name = self.dataset.value
        settings = Domain(name, profile=self.profile).settings
        counted = [
            model for model in settings.studies.models if settings.models[model].family in UNTRAINED
        ]
        models = (
            list(settings.studies.models) if name == "planted" else [*self.kept[name], *counted]
        )
        self.fill(self.model, models, "bivrec" if "bivrec" in models else models[0])
        self.choose()

    def choose(self) -> None:
        """A model: the test users of the fold that it never trained on."""
        key = (self.dataset.value, self.model.value)
        if key not in self.known:
            self.status.value = (
                f"Loading {key[1]} on {key[0]}; planted's models are trained now, in seconds."
            )
            try:
                self.known[key] = load(*key, profile=self.profile)
            except (SettingsError, ValueError) as error:
                self.status.value = f"<b>{escape(str(error))}</b>"
                return
        self.recommender: Recommender = self.known[key]
        sequences, self.cases = (
            self.recommender.domain.sequences,
            self.recommender.domain.fold(self.recommender.trained.seed).test,
        )
        labels = [
            f"{named(row)} · {item}"
            for row, item in zip(
                sequences.catalogue.assign(item=self.recommender.ids).itertuples(),
                self.recommender.ids,
            )
        ]
        self.place = {label: place for place, label in enumerate(labels)}
        self.quiet, self.addition.options, self.addition.value, self.quiet = True, labels, "", False
        users = [
            (f"{sequences.users[user]} ({len(history)} items)", case)
            for case, (user, history) in enumerate(zip(self.cases.users, self.cases.histories))
        ]
        same = self.user.value if self.user.options == tuple(users) else 0
        self.fill(self.user, users, same)
        self.start()

    def start(self) -> None:
        """A user: their own history."""
        self.history, self.targets = (
            self.cases.histories[self.user.value],
            self.cases.targets[self.user.value],
        )
        self.show()

    def change(self, add: bool) -> None:
        """One item more, as the newest, or one less."""
        if add and self.addition.value in self.place:
            self.history = np.append(self.history, self.place[self.addition.value])
            self.quiet, self.addition.value, self.quiet = True, "", False
        elif not add and self.removal.value is not None:
            if len(self.history) == 1:
                self.status.value = (
                    "<b>A history without items cannot be continued; add another item first.</b>"
                )
                return
            self.history = np.delete(self.history, self.removal.value)
        self.show()

    def fill(self, dropdown: widgets.Dropdown, options: list, value) -> None:
        """New options, without reacting to them."""
        self.quiet, dropdown.options, dropdown.value, self.quiet = True, options, value, False

    def noisy(self) -> tuple[Recommender, History]:
        """The model and history under the noise that is switched on."""
        kind, level = NOISES[self.noise.value], self.level.value
        self.level.disabled = kind is None
        return (
            add_noise(self.recommender, self.history, self.targets, kind, level)
            if kind
            else (self.recommender, self.history)
        )

    def show(self) -> None:
        """Everything below the choices, anew."""
        started = time.perf_counter()
        model, history = self.noisy()
        table, top = item_table(model, history), top_items(model, history, self.targets)
        self.lists.value = show_top(top)
        patches, nearest = allocate_patches(model, history), nearest_items(model, history)
        titles, view = (
            [named(row) for row in table.itertuples()],
            self.view.value if self.view.value in set(patches["view"]) else patches["view"].max(),
        )
        none = "<p>This model has no interests.</p>" if patches.empty else ""
        self.patches.value = none or show_patches(patches[patches["view"] == view], titles)
        self.nearest.value = none or show_nearest(nearest[nearest["view"] == view])
        self.past.value = show_history(table, model.max_length)
        own = item_table(self.recommender, self.history).itertuples()
        self.fill(
            self.removal,
            [(f"{place + 1}. {named(row)}", place) for place, row in enumerate(own)],
            len(self.history) - 1,
        )
        self.seconds = time.perf_counter() - started
        followed = ", ".join(
            escape(named(row))
            for row in item_table(self.recommender, self.targets[:12]).itertuples()
        )
        more = f", and {len(self.targets) - 12} more" if len(self.targets) > 12 else ""
        self.status.value = f"Shown in {self.seconds:.2f} s. What truly followed, {len(self.targets)} items: {followed}{more}."
