"""Ask a server of `main.py serve` about the films of a study.

python scripts/serve_client.py pa.png lateral.dcm --views PA,lateral --token-file token --output answer.json
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("films", nargs="+", type=Path, help="PNG, JPEG or DICOM: the views of one study")
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--views", default="", help="PA, AP, lateral or unknown for each film, comma-separated")
parser.add_argument("--labels", default="", help="only these, comma-separated")
parser.add_argument("--heatmaps", action="store_true", help="ask for heat-maps and boxes")
parser.add_argument("--token-file", type=Path)
parser.add_argument("--output", type=Path, help=".json file for the whole answer")
given = parser.parse_args()

line = "7e1f5a0c-longview-3b9d4e62"  # between the parts
asked = json.dumps(given.heatmaps)
try:
    parts = [("views", given.views.encode()), ("labels", given.labels.encode()), ("heatmaps", asked.encode())]
    parts += [("boxes", asked.encode()), *(('files"; filename="film', film.read_bytes()) for film in given.films)]
    form = b"".join(f'--{line}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
                    for name, value in parts)  # fmt: skip
    headers = {"Content-Type": f"multipart/form-data; boundary={line}"}
    if given.token_file:
        headers["Authorization"] = f"Bearer {given.token_file.read_text().strip()}"
    request = urllib.request.Request(f"{given.url}/v1/studies", form + f"--{line}--\r\n".encode(), headers)  # noqa: S310
    answer = json.load(urllib.request.urlopen(request))  # noqa: S310
except (OSError, ValueError) as error:  # no such file, no server, or what the server says is wrong
    sys.exit(f"{error}: {error.read().decode()}" if isinstance(error, urllib.error.HTTPError) else str(error))
for label in answer["models"][0]["labels"]:
    sys.stdout.write(f"{label['probability']:6.1%} {'positive' if label['positive'] else '':8}  {label['label']}\n")
if given.output:
    given.output.write_text(json.dumps(answer))
