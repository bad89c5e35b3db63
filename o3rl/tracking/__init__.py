"""What a run tells: metrics, tables and curves, to a folder and to MLflow."""
