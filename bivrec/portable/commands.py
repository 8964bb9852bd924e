"""The commands that use a trained model."""

from argparse import ArgumentParser

import pandas as pd

from bivrec.errors import DataError
from bivrec.portable.files import check_out, read_histories, read_items, write_lists
from bivrec.portable.folder import check_folder, export, load
from bivrec.portable.graph import check_packages, export_onnx
from bivrec.portable.lists import recommend_many


def parser_of(name: str, description: str) -> ArgumentParser:
    """A parser with the choices of `load`."""
    parser = ArgumentParser(f"bivrec {name}", description=description)
    parser.add_argument("source", metavar="MODEL", help="dataset, exported folder, hf://user/name")
    parser.add_argument("--model", default="bivrec", help="of a dataset: its model (bivrec)")
    parser.add_argument("--seed", type=int, help="of a dataset: the seed (the first)")
    parser.add_argument("--profile", default="default", help="of a dataset: the profile (default)")
    return parser


def recommend_command(*arguments: str) -> str:
    """Recommendations for one history or many, as text or in a file."""
    parser = parser_of("recommend", "What follows a history of items, or each user's.")
    parser.add_argument("items", nargs="*", metavar="ITEM", help="ids of a history, oldest first")
    parser.add_argument("--users", metavar="FILE", help="CSV or Parquet: user, item and maybe time")
    parser.add_argument("--out", metavar="LISTS", help="a file for the lists: .parquet or .csv")
    parser.add_argument("--k", type=int, default=20, help="the length of a list (20)")
    parser.add_argument("--view", help="id, multimodal or both (both, or the model's own)")
    parser.add_argument("--allowed", metavar="FILE", help="the ids to choose from, one per line")
    parser.add_argument("--reasons", action="store_true", help="adds the items that explain each")
    chosen = parser.parse_args(arguments)
    if bool(chosen.items) == bool(chosen.users):
        parser.error("give the items of a history, or --users FILE")
    if chosen.out:
        check_out(chosen.out, [*filter(None, (chosen.users, chosen.allowed))])
    if chosen.users:
        histories = read_histories(chosen.users)
    else:
        histories = pd.DataFrame({"user": 0, "item": chosen.items})
    allowed = read_items(chosen.allowed) if chosen.allowed else None
    recommender = load(chosen.source, chosen.model, chosen.seed, chosen.profile)
    lists = recommend_many(recommender, histories, chosen.k, chosen.view, allowed, chosen.reasons)
    if lists.empty:
        among = chosen.allowed or recommender.dataset
        raise DataError(f"nothing is left to recommend: the history has every item of {among}")
    listed = lists["user"].nunique()
    without = histories["user"].nunique() - listed
    lists = lists if chosen.users else lists.drop(columns="user")
    if not chosen.out:
        return lists.to_string(index=False)
    write_lists(lists, chosen.out)
    rest = f"; users with nothing left to recommend: {without:,}" if without else ""
    return f"{chosen.out}: {listed:,} lists of {recommender.dataset}{rest}"


def export_command(*arguments: str) -> str:
    """A trained model in a folder of its own."""
    parser = parser_of("export", "A trained model with all that recommending needs.")
    parser.add_argument("folder", metavar="FOLDER", help="where to write it")
    parser.add_argument("--onnx", action="store_true", help="adds model.onnx, its scores")
    chosen = parser.parse_args(arguments)
    check_folder(chosen.folder)
    if chosen.onnx:
        check_packages()
    recommender = load(chosen.source, chosen.model, chosen.seed, chosen.profile)
    export(recommender, chosen.folder)
    if chosen.onnx:
        export_onnx(recommender, f"{chosen.folder}/model.onnx")
    return f"{chosen.folder}: {recommender.trained.name} of {recommender.dataset}"


# name: function, least and most arguments
COMMANDS = {"recommend": (recommend_command, 0, 10**6), "export": (export_command, 0, 99)}
