"""Counts results for ./dev: prints "PASSED FAILED" for a meson test log or a JUnit file.

A check suite reports its own number of checks; what crashed before it could, or says that all
is well but ended badly (a sanitizer), counts as one failure."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree


def meson(path):
    passed = failed = 0
    try:
        lines = open(path, encoding="utf-8").read().splitlines()
    except FileNotFoundError:
        return 0, 1
    for line in lines:
        test = json.loads(line)
        good = test["result"] in ("OK", "EXPECTEDFAIL")
        if test["result"] == "SKIP":
            continue
        checks = failures = 0
        for found in re.finditer(r"\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", test.get("stdout") or ""):
            checks += int(found[1])
            failures += int(found[2]) + int(found[3])
        if not checks:
            checks = 1
            failures = 0 if good else 1
        elif not good and not failures:
            checks += 1
            failures = 1
        passed += checks - failures
        failed += failures
    return passed, failed


def junit(path):
    try:
        root = ElementTree.parse(path).getroot()
    except (FileNotFoundError, ElementTree.ParseError):
        return 0, 1
    passed = failed = 0
    for case in root.iter("testcase"):
        kinds = {child.tag for child in case}
        if "failure" in kinds or "error" in kinds:
            failed += 1
        elif "skipped" not in kinds:
            passed += 1
    return passed, failed


print(*{"meson": meson, "junit": junit}[sys.argv[1]](sys.argv[2]))
