"""Print the requirements of a setup.cfg that the running Python does not meet, one a line; exit 1 if there are any.

usage: python check_environment.py SETUP_CFG EXTRA,EXTRA...

Looks at the installed metadata only, which takes a tenth of a second where importing torch takes seconds.
"""

import configparser
import importlib.metadata
import sys


def unmet(setup_cfg: str, extras: list[str]) -> list[str]:
    """Return one line for each requirement of ``install_requires`` and of ``extras`` that is missing or too old."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # every complete environment has it: accelerate and librosa need it
        return ["packaging"]
    settings = configparser.ConfigParser()
    with open(setup_cfg, encoding="utf-8") as file:
        settings.read_file(file)
    lines = settings.get("options", "install_requires", fallback="").splitlines()
    for extra in extras:
        lines += settings.get("options.extras_require", extra).splitlines()
    problems = []
    python_requires = settings.get("options", "python_requires", fallback="")
    python = ".".join(map(str, sys.version_info[:3]))
    if not Requirement(f"python{python_requires}").specifier.contains(python):
        problems.append(f"python{python_requires} (is {python})")
    for line in dict.fromkeys(line.strip() for line in lines if line.strip()):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(line)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{line} (is {version})")
    return problems


if __name__ == "__main__":
    found = unmet(sys.argv[1], [extra for extra in sys.argv[2].split(",") if extra])
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)
