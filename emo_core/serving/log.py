"""What a service did, a JSON object a line: what happened, when, and of which job."""

import json
import logging
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class AsJson(logging.Formatter):
    """Time, level, message, what else was told with it, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to(path: Path) -> None:
    """The service's log goes there; what is older than the last 60 MB is dropped."""
    handler = RotatingFileHandler(path, maxBytes=10 * 2**20, backupCount=5)
    handler.setFormatter(AsJson())
    logger = logging.getLogger("emo_core.serving")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
