"""The package as settings.ini describes it: every fact is written there, once."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
facts = config["DEFAULT"]
name = facts["lib_name"]
suffix = "_requirements"
readme = HERE / "README.md"
stages = {"1": "1 - Planning", "2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta"}

setup(
    name=name,
    version=facts["version"],
    description=facts["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    keywords=facts["keywords"],
    author=facts["author"],
    author_email=facts["author_email"],
    url=facts["git_url"],
    license={"apache2": "Apache-2.0"}[facts["license"]],
    license_files=["LICENSE"],
    classifiers=[
        f"Development Status :: {stages[facts['status']]}",
        f"Intended Audience :: {facts['audience']}",
        f"Natural Language :: {facts['language']}",
        "Intended Audience :: Financial and Insurance Industry",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Office/Business :: Financial :: Investment",
    ],
    python_requires=f">={facts['min_python']}",
    packages=find_packages(include=[name, f"{name}.*"]),
    package_data={name: facts["package_data"].split()},
    install_requires=facts["requirements"].split(),
    extras_require={
        key.removesuffix(suffix): facts[key].split() for key in facts if key.endswith(suffix)
    },
    entry_points={
        "console_scripts": facts["console_scripts"].split(),
        "nbdev": [f"{name}={name}._modidx:d"],
    },
    zip_safe=False,
)
