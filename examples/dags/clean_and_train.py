"""One environment cleans with pandas, another trains with scikit-learn; Airflow itself needs neither."""

from airflow.sdk import dag, task

ROWS = [(1.0, 2.1), (2.0, 3.9), (3.0, 6.2), (4.0, None), (5.0, 9.8), (6.0, 12.1), (7.0, -999.0), (8.0, 16.2)]
MISSING = -999.0


@dag(schedule=None, tags=["k8s-venv"])
def clean_and_train():
    # The frame stays encoded on its way to the next task, so that nothing beside Airflow has to read it.
    @task.isolated("cleaning", result="reference")
    def clean():
        import numpy as np
        import pandas as pd

        frame = pd.DataFrame(ROWS, columns=["x", "y"]).replace(MISSING, np.nan).dropna()
        print(f"pandas {pd.__version__} kept {len(frame)} of {len(ROWS)} rows")
        return frame

    @task.isolated("training")
    def train(frame):
        import sklearn
        from sklearn.linear_model import LinearRegression

        model = LinearRegression().fit(frame[["x"]], frame["y"])
        print(f"scikit-learn {sklearn.__version__} found a slope of {model.coef_[0]:.2f}")
        return float(model.score(frame[["x"]], frame["y"]))

    @task
    def report(score):
        print(f"The model explains {score:.1%} of the variance.")
        return score

    report(train(clean()))


clean_and_train()
