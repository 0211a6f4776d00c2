"""What hostile files are made of."""
import io
import os
import zipfile


class Bomb:
    "Unpickling it makes a folder; nothing else does"
    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def archive(members):
    "The bytes of a zip file: name -> content"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()
