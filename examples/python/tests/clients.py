# SPDX-License-Identifier: Apache-2.0
"""What the tests against real engines share: their wheels' own files, and where figures go."""
import json
import logging
import os
import sys
import types


def wheel_packages(root, *names):
    """Lets submodules of packages be imported from an unpacked wheel without running the packages' own __init__, which would
    load a GPU engine."""
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [os.path.join(root, *name.split("."))]
        sys.modules[name] = module


def wheels():
    """The folder where bench/clients.sh unpacks wheels; None where the tests are to be skipped."""
    return os.environ.get("SLUICE_WHEELS")


def quiet():
    logging.disable(logging.CRITICAL)


def note(name, **figures):
    """Adds figures to the file that SLUICE_RESULTS names."""
    print(name, json.dumps(figures))
    path = os.environ.get("SLUICE_RESULTS")
    if path:
        known = json.load(open(path)) if os.path.exists(path) else {}
        known.setdefault(name, {}).update(figures)
        with open(path, "w") as f:
            json.dump(known, f, indent=1)
