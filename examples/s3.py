"""Score a corpus that lies on S3, and write the result there: the same command, with `s3://` paths.

    python examples/s3.py

Starts an S3 server on this machine (`pip install "moto[s3,server]"`), so that it runs without an account. With a real
bucket, the paths are plain `s3://bucket/folder`, and credentials and region come from the usual places.
"""

import logging
import os
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSystem

from pipelines import score

TEXTS = ["def read(path): return open(path)\n", "class Cache:\n    def load(self, key): return self.values[key]\n"]


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}
    where = f"?endpoint_override={quote(f'http://{host}:{port}', safe='')}&region=us-east-1&allow_bucket_creation=true"
    s3, _ = FileSystem.from_uri("s3://corpora" + where)
    s3.create_dir("corpora")
    pq.write_table(pa.table({"text": TEXTS}), "corpora/code.parquet", filesystem=s3)
    command = "--task token-classification --model checkpoints/token-classification"
    command += f" --input s3://corpora/code.parquet{where} --output s3://corpora/scored{where}"
    status = score.main(command.split())
    for row in pq.read_table("corpora/scored", filesystem=s3).to_pylist():
        print([(entity["word"].strip(), entity["entity_group"]) for entity in row["entities"]])
    server.stop()
    raise SystemExit(status)


if __name__ == "__main__":
    main()
