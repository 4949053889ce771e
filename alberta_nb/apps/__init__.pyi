from .learn import learn_table as learn_table
from .nexting import next_everything as next_everything
from .predict import predict_table as predict_table
from .predict_return import predict_returns as predict_returns
