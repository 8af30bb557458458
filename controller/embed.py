"""Writes files as a C table: embed.py OUTPUT FILE... (used by meson.build)"""

import pathlib
import sys

out = ["/* Written by controller/embed.py. */", '#include "controller/crds.h"', ""]
names = []
for number, name in enumerate(sys.argv[2:]):
    path = pathlib.Path(name)
    data = path.read_bytes()
    lines = [",".join(str(b) for b in data[i : i + 32]) for i in range(0, len(data), 32)]
    out += [f"static const unsigned char file_{number}[] = {{", ",\n".join(lines), "};"]
    names.append(f'    {{"{path.name}", {{(const char *)file_{number}, sizeof file_{number}}}}},')
out += ["const struct embedded_file crd_files[] = {", *names, "    {NULL, {NULL, 0}},", "};", ""]
pathlib.Path(sys.argv[1]).write_text("\n".join(out))
