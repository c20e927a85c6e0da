"""Renders the peers' configuration templates (syntax: ../README.md, "Adding a peer")."""
import re

RULES = 100


def render(text, variables, flags):
    """`text` with its @if@ blocks chosen by `flags`, its rules written out and its @NAME@s replaced."""
    out, stack, loop = [], [], None
    for line in text.split("\n"):
        word = line.strip()
        chosen = re.match(r"@if (.*)@$", word)
        if chosen:
            stack.append({"on": any(flag in flags for flag in chosen[1].split())})
        elif word == "@else@":
            stack[-1]["on"] = not stack[-1]["on"]
        elif word == "@for rules@":
            stack.append({"on": True, "loop": True})
            loop = []
        elif word == "@end@":
            if stack.pop().get("loop"):
                body, loop = loop, None
                if all(block["on"] for block in stack):
                    for i in range(RULES):
                        out += [b.replace("@I@", "%03d" % i).replace("@N@", str(i)) for b in body]
        elif all(block["on"] for block in stack):
            (out if loop is None else loop).append(line)
    whole = "\n".join(out)
    return re.sub(r"@([A-Z0-9]+)@", lambda m: str(variables[m[1]]) if m[1] in variables else m[0], whole)
