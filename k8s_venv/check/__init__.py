"""What would fail, found without running: tasks, their modules, and what they ask of Airflow."""
