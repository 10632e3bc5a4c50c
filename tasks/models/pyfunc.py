"""The code of every LoggedModel: MLflow runs this file when it loads one, in whatever process that is."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from tasks.data.items import Item
from tasks.models.loading import load_predictor, load_rules, priced


class PricePredictor(PythonModel):
    """Prices texts; the first line of each is the title."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the predictor that the model was logged with, and the rules that cleaned what it was trained on."""
        folder = Path(context.artifacts["predictor"])
        self.predictor, self.rules = load_predictor(folder), load_rules(folder)

    def predict(self, model_input: list[str]) -> pd.DataFrame:
        """One row for each text: `price`, and `low` to `high`, its 80% interval, in US dollars; NaN where there is
        none, as for a text of which cleaning leaves no words."""
        answer = priced(self.predictor, [Item.from_text(text) for text in model_input], self.rules)
        return pd.DataFrame({"price": answer.price, "low": answer.low, "high": answer.high})


mlflow.models.set_model(PricePredictor())
