"""Snowpark needs Python 3.8 here, Airflow runs on a newer one; the DataFrame crosses over."""

import sys

from airflow.sdk import dag, task

from k8s_venv import runtime

TABLE = "sample_product_data"


def open_session():
    """Open a session from Airflow's connection, or in Snowpark's local testing mode if there is no connection."""
    from snowflake.snowpark import Session

    try:
        connection = runtime.get_connection("snowflake_default")
    except LookupError:
        print("No connection: Snowpark's local testing mode")
        return Session.builder.config("local_testing", True).create()
    extra = connection.extra_dejson
    settings = {
        "account": extra.get("account") or connection.host,
        "user": connection.login,
        "password": connection.password,
        "schema": connection.schema,
        "database": extra.get("database"),
        "warehouse": extra.get("warehouse"),
        "role": extra.get("role"),
    }
    return Session.builder.configs({key: value for key, value in settings.items() if value}).create()


@dag(schedule=None, tags=["k8s-venv"])
def snowpark():
    @task.isolated("snowpark", optional_connections=["snowflake_default"])
    def products():
        print(f"Snowpark runs on Python {sys.version.split()[0]}")
        session = open_session()
        rows = [
            (1, 0, 5, "Product 1"),
            (2, 1, 5, "Product 1A"),
            (3, 1, 5, "Product 1B"),
            (4, 0, 10, "Product 2"),
        ]
        frame = session.create_dataframe(rows, schema=["id", "parent_id", "category_id", "name"])
        frame.write.save_as_table(TABLE, mode="overwrite")
        table = session.table(TABLE)
        table.show()
        return table.to_pandas()

    @task
    def analyze(df):
        print(f"Airflow runs on Python {sys.version.split()[0]}")
        print(df.head(2))

    analyze(products())


snowpark()
