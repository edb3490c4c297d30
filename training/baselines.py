"""What ULMFiT has to beat: two linear models that train in seconds. Their scores are margins, spam from 0 on."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from training.figures import Scores

Score = Callable[[Sequence[str]], Scores]


def svc(texts: Sequence[str], spam: Sequence[bool]) -> Score:
    """A linear SVM over TF-IDF of words and pairs of words."""
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2), LinearSVC(random_state=0))
    model.fit(texts, spam)
    return lambda asked: np.asarray(model.decision_function(asked), np.float64)


def bayes(texts: Sequence[str], spam: Sequence[bool]) -> Score:
    """Multinomial naive Bayes over counts of words."""
    model = make_pipeline(CountVectorizer(min_df=2), MultinomialNB())
    model.fit(texts, spam)
    return lambda asked: np.diff(model.predict_log_proba(asked), axis=1).ravel()


BASELINES: dict[str, Callable[[Sequence[str], Sequence[bool]], Score]] = {
    "TF-IDF + LinearSVC": svc,
    "multinomial NB": bayes,
}
