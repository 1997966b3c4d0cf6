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

boundary = "7e1f5a0c-longview-3b9d4e62"
fields = {"views": given.views, "labels": given.labels}
fields |= {"heatmaps": str(given.heatmaps).lower(), "boxes": str(given.heatmaps).lower()}
parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
parts += [(f'name="files"; filename="film-{number}"', film.read_bytes()) for number, film in enumerate(given.films)]
head = f"--{boundary}\r\nContent-Disposition: form-data; ".encode()
body = b"".join(head + what.encode() + b"\r\n\r\n" + value + b"\r\n" for what, value in parts)
headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
if given.token_file:
    headers["Authorization"] = f"Bearer {given.token_file.read_text().strip()}"
body += f"--{boundary}--\r\n".encode()
request = urllib.request.Request(f"{given.url}/v1/studies", body, headers)  # noqa: S310
try:
    answer = json.load(urllib.request.urlopen(request))  # noqa: S310
except urllib.error.HTTPError as error:
    sys.exit(f"{error.code}: {json.load(error)['detail']}")
for label in answer["models"][0]["labels"]:
    sys.stdout.write(f"{label['probability']:6.1%} {'positive' if label['positive'] else '':8}  {label['label']}\n")
if given.output:
    given.output.write_text(json.dumps(answer))
