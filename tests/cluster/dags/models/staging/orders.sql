select 2 as amount union all select 3
