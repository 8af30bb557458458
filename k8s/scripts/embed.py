"""Makes exec_scripts.c of the scripts: each with the parts that its "# use:" line names before it, without
comments and indentation, because it travels in a URL. Here documents must not be indented."""
import pathlib
import re
import sys

out, *sources = sys.argv[1:]
text = {pathlib.Path(s).stem: pathlib.Path(s).read_text(encoding="utf-8") for s in sources}


def short(script):
    lines = [line.strip() for line in script.split("\n")]
    return "\n".join(line for line in lines if line and not line.startswith("#")) + "\n"


with open(out, "w", encoding="utf-8") as c:
    c.write('/* Made by k8s/scripts/embed.py. */\n#include "k8s/exec_scripts.h"\n')
    for name, script in sorted(text.items()):
        uses = re.search(r"^# use: (.*)$", script, re.M)
        if not uses:
            continue
        whole = "".join(short(text[part]) for part in uses.group(1).split()) + short(script)
        c.write(f"\nconst char exec_script_{name}[] =\n")
        for line in whole.splitlines():
            escaped = line.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?")
            c.write(f'    "{escaped}\\n"\n')
        c.write("    ;\n")
