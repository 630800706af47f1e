"""The pipeline as data: transformations as the user wrote them, and the job graph they are chained into."""
