"""Options that many commands have; apart from `connection.py`, which commands that run a process do not want."""

import click

node_option = click.option("--node", metavar="NODE", help="Another node: its name, site/name or id. Default: this one.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
